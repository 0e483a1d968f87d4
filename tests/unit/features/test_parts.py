from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_worlds import Text, lookup, world

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import MismatchError, OutputError
from monoscope.core.stores.remote import Remote
from monoscope.features import Analysis, FeatureBundle, analyze, analyze_part
from monoscope.features.collectors.activity import Activity
from monoscope.features.firings import Firings

SETTINGS = Analysis(window=16, top=4, random=3, negative=3)


def signed_world(seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    tokens, table = world(n_features=140, sequences=90, length=32, density=0.1, seed=seed)
    table[:, 3] *= np.where(np.random.default_rng(1).random(len(table)) < 0.5, -1, 1)
    table[: len(table) // 2, 5] = 0  # silent in the first parts
    table[:, 7] = 0  # dead
    table[: len(table) // 3, 9] *= 1000  # the scale differs from part to part
    return tokens, table


def documents(n: int) -> torch.Tensor:
    return torch.arange(n) // 3


def in_parts(table: np.ndarray, text: Text, out: Path, ranks: int, order: list[int] | None = None) -> FeatureBundle:
    for rank in order or range(1, ranks):
        analyze_part(lookup(table), text, out, rank, ranks, config=SETTINGS)
    return analyze(lookup(table), text, out, config=SETTINGS, ranks=ranks)


@pytest.mark.parametrize("ranks", [2, 5])
def test_parts_unite_to_the_bundle_of_the_whole(ranks: int, tmp_path: Path) -> None:
    tokens, table = signed_world()
    whole = analyze(lookup(table), Text(tokens, documents=documents(90)), tmp_path / "whole.mono", config=SETTINGS)
    order = list(reversed(range(1, ranks)))  # whoever is ready first
    parts = in_parts(table, Text(tokens, documents=documents(90)), tmp_path / "parts.mono", ranks, order)
    assert not (tmp_path / "parts.mono.partial").exists()
    files = {file["path"]: file["sha256"] for file in whole.manifest["files"]}
    for file in parts.manifest["files"]:
        if file["path"] not in ("features.parquet", "details.parquet"):  # which hold sums, added in another order
            assert file["sha256"] == files[file["path"]], file["path"]
    for name in whole.features.column_names:
        np.testing.assert_allclose(parts.column(name), whole.column(name), rtol=1e-6, err_msg=name)
    for feature in range(140):
        one, other = parts.feature(feature), whole.feature(feature)
        assert [t.id for t in one.tokens] == [t.id for t in other.tokens]
        assert one.together == other.together
        np.testing.assert_allclose(one.token_means, other.token_means, rtol=1e-5)
        np.testing.assert_array_equal(one.acts.counts, other.acts.counts)
    assert parts.manifest["data"] == whole.manifest["data"]
    parts.verify()


def test_moments_of_parts_are_those_of_the_whole_and_extremes_are_exact() -> None:
    tokens, table = signed_world()
    whole, a, b = (Activity(140, 5) for _ in range(3))
    for i, batch in enumerate(Text(tokens, at_once=9)):
        firings = Firings.of(batch, lookup(table), i * 9)
        whole.update(firings)
        (a if i < 3 else b).update(firings)
    a.absorb(b)
    assert np.array_equal(a.high, whole.high)
    assert np.array_equal(a.low, whole.low)
    np.testing.assert_allclose(a.squares, whole.squares, rtol=1e-12)
    one, other = a.finish(), whole.finish()
    for name in ("act_counts", "act_quantiles", "interval_share"):
        np.testing.assert_allclose(one.lists[name].values, other.lists[name].values, rtol=1e-6)


class Interrupted(Text):
    """Asks its own process to stop after some batches."""

    left = 4

    def __iter__(self) -> Iterator[ActivationBatch]:
        for batch in super().__iter__():
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch


@pytest.mark.parametrize("ranks", [1, 3])
def test_an_interrupted_analysis_goes_on_to_the_same_bundle(ranks: int, tmp_path: Path) -> None:
    assert threading.current_thread() is threading.main_thread()
    tokens, table = signed_world()
    whole = analyze(lookup(table), Text(tokens), tmp_path / "whole.mono", config=SETTINGS)
    out = tmp_path / "out.mono"
    for rank in range(1, ranks):
        analyze_part(lookup(table), Text(tokens), out, rank, ranks, config=SETTINGS)
    with pytest.raises(KeyboardInterrupt, match=r"stopped after 512 tokens"):
        source = Interrupted(tokens)
        source.part = lambda number, of: _interrupted(Text(tokens).part(number, of))  # pyright: ignore
        analyze(lookup(table), source, out, config=SETTINGS, ranks=ranks)
    assert not out.exists()
    again = analyze(lookup(table), Text(tokens), out, config=SETTINGS, ranks=ranks)
    for name in whole.features.column_names:
        np.testing.assert_allclose(again.column(name), whole.column(name), rtol=1e-6)
    contexts = [file["sha256"] for file in whole.manifest["files"] if file["path"].startswith("contexts")]
    assert contexts == [file["sha256"] for file in again.manifest["files"] if file["path"].startswith("contexts")]
    assert [entry.name for entry in tmp_path.iterdir() if "partial" in entry.name] == []


@pytest.mark.parametrize("ranks", [1, 3])
def test_an_interrupted_analysis_at_a_url_goes_on_from_there(ranks: int, tmp_path: Path) -> None:
    tokens, table = signed_world()
    whole = analyze(lookup(table), Text(tokens), tmp_path / "whole.mono", config=SETTINGS)
    out = Remote(f"memory://tests/{uuid.uuid4().hex}/out.mono")
    for rank in range(1, ranks):
        analyze_part(lookup(table), Text(tokens), out, rank, ranks, config=SETTINGS)
    with pytest.raises(KeyboardInterrupt, match=r"stopped after 512 tokens"):
        source = Interrupted(tokens)
        source.part = lambda number, of: _interrupted(Text(tokens).part(number, of))  # pyright: ignore
        analyze(lookup(table), source, out, config=SETTINGS, ranks=ranks)
    assert not out.exists()
    left = [name.rpartition("/")[2] for name in Remote(f"{out}.partial").sizes()]
    assert left == ["survey.safetensors"] * ranks
    with pytest.raises(OutputError, match=r"unfinished analysis with another dictionary"):
        analyze(lookup(table), Text(tokens), out, config=Analysis(window=16))
    rest = _interrupted(Text(tokens).part(0, ranks))
    rest.left = 1000
    source = rest if ranks == 1 else Text(tokens)
    source.part = lambda number, of: rest  # pyright: ignore
    analyze(lookup(table), source, out, config=SETTINGS, ranks=ranks)
    assert 1000 - rest.left == len(list(Text(tokens).part(0, ranks))) - 4
    assert not Remote(f"{out}.partial").exists()
    found = FeatureBundle.open(out)
    for name in whole.features.column_names:
        np.testing.assert_allclose(found.column(name), whole.column(name), rtol=1e-6)
    contexts = [file["sha256"] for file in whole.manifest["files"] if file["path"].startswith("contexts")]
    assert contexts == [file["sha256"] for file in found.manifest["files"] if file["path"].startswith("contexts")]


def _interrupted(part: Text) -> Interrupted:
    own = Interrupted(part.tokens, part.mask, part.documents, part.at_once)
    own.first_row = part.first_row
    return own


def test_what_another_job_left_is_not_taken(tmp_path: Path) -> None:
    tokens, table = signed_world()
    out = tmp_path / "out.mono"
    analyze_part(lookup(table), Text(tokens), out, 1, 2, config=SETTINGS)
    with pytest.raises(OutputError, match=r"unfinished analysis with another dictionary"):
        analyze(lookup(table), Text(tokens), out, config=Analysis(window=16))
    analyze(lookup(table), Text(tokens), out, config=Analysis(window=16), force=True)
    assert not (tmp_path / "out.mono.partial").exists()


def test_two_processes_do_not_read_the_same_part(tmp_path: Path) -> None:
    tokens, table = signed_world()
    out = tmp_path / "out.mono"

    def meanwhile() -> None:
        with pytest.raises(OutputError, match="in use by process"):
            analyze(lookup(table), Text(tokens), out, config=SETTINGS)

    class Held(Text):
        def __iter__(self) -> Iterator[ActivationBatch]:
            for i, batch in enumerate(super().__iter__()):
                if i == 1:
                    meanwhile()
                yield batch

    analyze(lookup(table), Held(tokens), out, config=SETTINGS)


def test_more_processes_than_batches_are_refused(tmp_path: Path) -> None:
    tokens, table = signed_world()
    with pytest.raises(MismatchError, match="30 processes cannot share 23 batches of 4"):
        analyze(lookup(table), Text(tokens), tmp_path / "out.mono", ranks=30)
    assert not any(tmp_path.iterdir())
