"""Suites: what they expand to, the passes that fit, and that a kill at any moment costs nothing that was finished."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_text_model import TEXT, tiny_lm

from monoscope.core.errors import ConfigError, MismatchError, OutputError, SiteError
from monoscope.core.site import Site
from monoscope.dictionaries import Recipe, load
from monoscope.harvest import TokenWindows, live
from monoscope.training import RunConfig, Training
from monoscope.training.memory import Need, Pass, need_of
from monoscope.training.suite import SUITE, Suite, plan_of, train_suite

RECIPE = Recipe.from_dict(
    {
        "wiring": {"kind": "autoencoder", "n_features": 1},
        "function": {"kind": "topk", "k": 3},
        "initialize": {"encoder_scale": 1.0},  # a search would take longer than all the rest
    }
)
TRAINING = Training(tokens=300, batch_tokens=100, shuffle_tokens=300, checkpoint_every=0)
GB = 1e9


def runs_of(**table: Any) -> dict[str, RunConfig]:
    return Suite.from_dict(table).runs(RECIPE, TRAINING, tiny_lm())


def windows() -> TokenWindows:
    tokenizer = tiny_lm().tokenizer
    assert tokenizer is not None
    return TokenWindows.from_text(TEXT * 10, tokenizer, context=16)


def train(runs: dict[str, RunConfig], out: Path, memory: float = GB, **options: Any) -> None:
    lm, text = tiny_lm(), windows()
    train_suite(runs, lambda sites: live(lm, text, sites), lm, out, memory=memory, **options)


def test_one_dictionary_for_each_layer_site_and_width() -> None:
    runs = runs_of(sites=["resid_post", "mlp"], widths=["4x", "1.5x", 40])
    assert list(runs)[:4] == ["L0.resid_post.4x", "L0.resid_post.1.5x", "L0.resid_post.40", "L0.mlp.4x"]
    assert len(runs) == 2 * 2 * 3
    transcoder = runs["L1.mlp.1.5x"]
    assert [str(site) for site in (*transcoder.reads, *transcoder.writes)] == ["1.mlp_in", "1.mlp_out"]
    assert [transcoder.recipe.wiring.n_features, runs["L1.mlp.40"].recipe.wiring.n_features] == [24, 40]
    assert runs["L0.mlp.4x"].recipe.function == RECIPE.function
    assert list(runs_of(layers=[1], sites=["attn_out"], widths=["2x"])) == ["L1.attn_out.2x"]


@pytest.mark.parametrize(
    ("table", "error", "says"),
    [
        ({"layers": []}, ConfigError, "layers: name at least one"),
        ({"layers": "most"}, ConfigError, "layers"),
        ({"layers": [2]}, ConfigError, r"suite.layers: tiny has layers 0\.\.1, found 2"),
        ({"layers": [-1]}, ConfigError, "found -1"),
        ({"sites": []}, ConfigError, "sites: name at least one"),
        ({"sites": ["resid_pots"]}, ConfigError, "did you mean 'resid_post'"),
        ({"sites": ["logits"]}, ConfigError, "has no layer"),
        ({"sites": ["mlp", "mlp"]}, ConfigError, "sites name one twice: mlp, mlp"),
        ({"sites": ["resid_mid", "pattern"]}, (ConfigError, SiteError), "pattern"),
        ({"widths": []}, ConfigError, "widths: name at least one"),
        ({"widths": ["x8"]}, ConfigError, "found 'x8'; a width is a number of features"),
        ({"widths": ["0x"]}, ConfigError, "found '0x'"),
        ({"widths": [-4]}, ConfigError, "found -4"),
        ({"memory_gb": 0}, ConfigError, "memory_gb"),
    ],
)
def test_suites_that_cannot_be_meant(table: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        runs_of(**table)


def test_a_width_smaller_than_k_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    runs = runs_of(layers=[0], sites=["resid_post"], widths=[48, 2])
    with pytest.raises(ConfigError, match=r"L0\.resid_post\.2: .*k"):
        train(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_passes_fit_into_memory_and_share_sites() -> None:
    lm = tiny_lm()
    runs = runs_of(widths=["4x", "8x"])
    (all_at_once,) = plan_of(runs, lm, 100 * GB)
    assert all_at_once.names == tuple(runs)
    assert len(all_at_once.sites) == 2 * 4  # resid_post, attn_out, mlp_in and mlp_out; each once
    half = (all_at_once.bytes + plan_of(dict(list(runs.items())[:1]), lm, GB)[0].bytes) / 2
    passes = plan_of(runs, lm, half)
    assert sum((one.names for one in passes), ()) == tuple(runs)
    assert len(passes) > 1
    assert all(one.bytes <= half for one in passes)
    assert set(passes[0].sites) == {
        site for name in passes[0].names for site in (*runs[name].reads, *runs[name].writes)
    }


def test_one_that_cannot_fit_is_refused_with_advice() -> None:
    with pytest.raises(ConfigError, match=r"L0\.mlp_out\.4x alone needs about 0\.\d GB.*choose a smaller width"):
        plan_of(runs_of(sites=["mlp_out"], widths=["4x"]), tiny_lm(), 1e6)


def test_predicted_memory_counts_weights_optimizer_and_dense_activations() -> None:
    widths = {Site(0, "resid_post"): 64}
    sites = tuple(widths)

    def need(n_features: int, optimizer: str, batch: int = 2, data: int = 1, features: int = 1, **recipe: Any) -> Need:
        wiring = {"kind": "autoencoder", "n_features": n_features}
        table = {"wiring": wiring, "function": {"kind": "topk", "k": 3}} | recipe
        training = Training.from_dict({"optimizer": {"kind": optimizer}, "batch_tokens": batch})
        run = RunConfig(reads=sites, writes=sites, recipe=Recipe.from_dict(table), training=training)
        return need_of(run, widths, data=data, features=features)

    weights = 1000 * (64 + 1 + 64) * 4
    grown = need(2000, "adam").resident - need(1000, "adam").resident
    assert grown == pytest.approx(4 * weights, rel=0.01)
    assert need(2000, "sign").resident - need(1000, "sign").resident == pytest.approx(3 * weights, rel=0.01)
    dense = {"function": {"kind": "relu"}, "terms": {"r": {"kind": "squared_error"}, "s": {"kind": "l1"}}}
    assert need(1000, "adam", 2**14, **dense).step > 2 * need(1000, "adam", 2**14).step
    assert need(1000, "adam").step > 3 * weights  # what is written at the end, where batches are small
    alone, shared = need(1000, "adam"), need(1000, "adam", features=4)
    assert shared.resident == pytest.approx(alone.resident / 4, rel=0.01)
    assert alone.step < shared.step < 2 * alone.step  # at the end each gathers the whole
    assert shared.beginning >= weights > alone.beginning == 0
    large = need(1000, "adam", 2**16, **dense)
    assert need(1000, "adam", 2**16, features=4, **dense).step == pytest.approx(large.step / 4)
    assert need(1000, "adam", 2**17, data=2, **dense).step == large.step
    wide = need(100_000, "adam", 2**17)  # of which no [batch, feature] array is held
    assert 6 * 100 * weights < wide.step < 2**17 * 100_000 * 4 / 10


class Killed(BaseException):
    """What happens to a process that is killed: nothing more."""


@contextmanager
def killed_before_change(number: int | None) -> Iterator[list[str]]:
    """Every change of the file system is counted; from that of a number on, none succeeds."""
    seen: list[str] = []
    patch = pytest.MonkeyPatch()

    def counted(name: str, change: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            if number is not None and len(seen) > number:
                raise Killed
            return change(*arguments, **options)

        return run

    for name in ("replace", "mkdir", "rmdir", "unlink", "rename"):
        patch.setattr(os, name, counted(name, getattr(os, name)))
    try:
        yield seen
    finally:
        patch.undo()


def weights(out: Path, runs: dict[str, RunConfig]) -> dict[str, dict[str, torch.Tensor]]:
    return {name: load(out / name).state_dict() for name in runs}


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_what_resume_finishes_to_the_same_weights(tmp_path: Path) -> None:
    runs = runs_of(layers=[0], sites=["resid_post"], widths=[24, 32, 40])
    first_two = plan_of(dict(list(runs.items())[:2]), tiny_lm(), GB)[0].bytes
    announced: list[list[Pass]] = []

    def announce(passes: Any, finished: int) -> None:
        announced.append(list(passes))

    train(runs, tmp_path / "before", first_two)  # what a process does once, such as finding the kernels, is not counted
    with killed_before_change(None) as changes:
        train(runs, tmp_path / "whole", first_two, announce=announce)
    assert [one.names for one in announced[0]] == [tuple(runs)[:2], tuple(runs)[2:]]
    assert sorted(p.name for p in (tmp_path / "whole").iterdir() if p.name != ".lock") == sorted([SUITE, *runs])
    expected = weights(tmp_path / "whole", runs)
    for number in range(len(changes)):
        out = tmp_path / str(number)
        with killed_before_change(number), pytest.raises(Killed):
            train(runs, out, first_two)
        train(runs, out, first_two, resume=True)
        found = weights(out, runs)
        for name, tensors in expected.items():
            assert all(torch.equal(tensor, found[name][key]) for key, tensor in tensors.items()), (number, name)
        assert not (out / "pass").exists()


def test_a_resumed_suite_is_the_same_suite(tmp_path: Path) -> None:
    runs = runs_of(layers=[0], sites=["resid_post"], widths=[24])
    out = tmp_path / "out"
    train(runs, out)
    with pytest.raises(OutputError, match="exists; choose another place"):
        train(runs, out)
    stamp = (out / "L0.resid_post.24" / "weights.safetensors").stat().st_mtime_ns
    train(runs, out, resume=True)
    assert (out / "L0.resid_post.24" / "weights.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(MismatchError, match="n_features was 24, now 40"):
        train({"L0.resid_post.24": next(iter(runs_of(layers=[0], sites=["resid_post"], widths=[40]).values()))}, out,
              resume=True)  # fmt: skip
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_text("")
    with pytest.raises(OutputError, match="exists"):
        train(runs, tmp_path / "other", resume=True)
