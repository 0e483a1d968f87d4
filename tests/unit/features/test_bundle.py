from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from feature_worlds import Text, lookup, world
from tiny_text_model import tiny_lm

from monoscope.core.errors import DataError, MismatchError, OutputError
from monoscope.dictionaries import Autoencoder
from monoscope.dictionaries.variants import TopK
from monoscope.features import Analysis, FeatureBundle, analyze
from monoscope.features.collectors.selection import ContextTable
from monoscope.features.schema import bundle_fingerprint, contexts_file, contexts_group, round_bits
from monoscope.harvest import TokenWindows, live

Make = Callable[..., FeatureBundle]


@pytest.fixture
def bundle(make: Make) -> FeatureBundle:
    """300 features: those of the second row group are all dead."""
    tokens, table = world(n_features=300, sequences=30, density=0.05)
    table[:, 128:256] = 0
    return make(tokens, table)


def test_every_feature_is_found_by_arithmetic_empty_groups_included(bundle: FeatureBundle) -> None:
    for f in (0, 5, 127, 128, 255, 256, 299):
        contexts = bundle.contexts(f)
        assert bool(contexts) == (not 128 <= f < 256)
        table = pq.ParquetFile(bundle.path / contexts_file(f)).read_row_group(contexts_group(f))
        assert (table.column("feature").to_numpy() == f).sum() == len(contexts)
        feature = bundle.feature(f)
        assert (feature.index, feature.is_dead) == (f, not contexts)
        assert len(feature.contexts) == len(contexts)
    assert (contexts_file(16384), contexts_group(16384 + 128)) == ("contexts/00001.parquet", 1)
    with pytest.raises(DataError, match="0 to 299"):
        bundle.feature(300)


def test_rows_are_in_order_and_other_readers_agree(bundle: FeatureBundle) -> None:
    table = bundle.features
    assert table.column("feature").to_pylist() == list(range(300))
    where = str(bundle.path / "features.parquet")
    found = duckdb.sql(f"select feature, density from '{where}' where is_dead = false order by density desc limit 3")
    best = np.argsort(-bundle.column("density"), kind="stable")[:3]
    assert [row[1] for row in found.fetchall()] == pytest.approx(bundle.column("density")[best])
    contexts = pq.read_table(bundle.path / contexts_file(0))
    keys = list(zip(*(contexts.column(name).to_pylist() for name in ("feature", "interval", "rank")), strict=True))
    assert keys == sorted(keys)


def test_the_manifest_says_what_the_bundle_is(bundle: FeatureBundle) -> None:
    manifest = bundle.manifest
    assert (manifest["schema"], manifest["schema_version"]) == ("monoscope.features", 1)
    assert manifest["dictionary"]["writes"] == ["1.resid_post"]
    assert manifest["data"] | {"source": None} == {
        "dataset": {"kind": "made", "split": "train"},
        "revision": None,
        "split": "train",
        "n_tokens": 960,
        "n_sequences": 30,
        "context_length": 32,
        "packing": None,
        "skip_first": 0,
        "seed": 0,
        "source": None,
    }
    assert manifest["stats"]["dead_share"] == pytest.approx(128 / 300)
    assert manifest["stats"]["l0"] == pytest.approx(bundle.column("density").sum(), rel=1e-5)
    assert {file["path"] for file in manifest["files"]} == {
        str(path.relative_to(bundle.path)) for path in bundle.path.rglob("*") if path.is_file()
    } - {"manifest.json"}
    bundle.verify()


def test_the_same_analysis_has_the_same_fingerprint(make: Make) -> None:
    tokens, table = world()
    one, same, other = make(tokens, table), make(tokens, table), make(tokens, table, seed=1)
    assert one.manifest["fingerprint"] == same.manifest["fingerprint"] == bundle_fingerprint(one.manifest)
    assert one.manifest["fingerprint"] != other.manifest["fingerprint"]


@pytest.mark.parametrize(
    "name", ["features.parquet", "details.parquet", "contexts/00000.parquet", "sequences.safetensors", "vocab.parquet"]
)
def test_a_broken_file_is_named(bundle: FeatureBundle, name: str) -> None:
    path = bundle.path / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=name):
        FeatureBundle.open(bundle.path)
    path.write_bytes(whole[:-1] + b"?")
    with pytest.raises(DataError, match=f"{name} was changed"):
        FeatureBundle.open(bundle.path).verify()
    # Right in size, wrong in content: reading it says so too.
    path.write_bytes(b"?" * len(whole))
    with pytest.raises(DataError, match=name):
        FeatureBundle.open(bundle.path).feature(0)
    path.unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        FeatureBundle.open(bundle.path)


def test_what_is_no_bundle_is_refused(bundle: FeatureBundle, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no feature bundle"):
        FeatureBundle.open(tmp_path / "nothing")
    manifest = bundle.path / "manifest.json"
    text = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(text | {"schema_version": 2}))
    with pytest.raises(DataError, match="reads up to 1"):
        FeatureBundle.open(bundle.path)
    manifest.write_text(json.dumps({key: value for key, value in text.items() if key != "data"}))
    with pytest.raises(DataError, match="lacks data"):
        FeatureBundle.open(bundle.path)
    manifest.write_text(json.dumps(text | {"data": text["data"] | {"n_tokens": 1}}))
    with pytest.raises(DataError, match="fingerprint"):
        FeatureBundle.open(bundle.path).verify()


def test_an_existing_bundle_is_not_overwritten_and_a_failed_one_leaves_nothing(
    make: Make, bundle: FeatureBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, table = world()
    with pytest.raises(OutputError, match="exists"):
        analyze(lookup(table), Text(tokens), bundle.path)
    before = bundle.manifest["fingerprint"]

    def fail(parts: list) -> ContextTable:
        raise RuntimeError("stop")

    with monkeypatch.context() as patch:
        patch.setattr(ContextTable, "join", staticmethod(fail))
        with pytest.raises(RuntimeError, match="stop"):
            analyze(lookup(table), Text(tokens), bundle.path, force=True)
    assert FeatureBundle.open(bundle.path).manifest["fingerprint"] == before
    assert [path.name for path in bundle.path.parent.iterdir()] == [bundle.path.name]
    replaced = analyze(lookup(table), Text(tokens), bundle.path, force=True)
    assert len(replaced) == 6


def test_analysis_stops_after_the_tokens_asked_for(make: Make) -> None:
    tokens, table = world()
    assert make(tokens, table, tokens=200).manifest["data"]["n_tokens"] == 256  # whole batches of 128


def test_bad_input(tmp_path: Path) -> None:
    tokens, table = world()
    nothing = torch.zeros(tokens.shape, dtype=torch.bool)
    with pytest.raises(DataError, match="no tokens that count"):
        analyze(lookup(table), Text(tokens, nothing), tmp_path / "out")
    elsewhere = lookup(table)
    elsewhere.reads = elsewhere.writes = (tiny_lm().resolve("0.resid_post"),)
    with pytest.raises(MismatchError, match=r"0\.resid_post"):
        analyze(elsewhere, Text(tokens), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_real_model_gives_text_and_promoted_tokens(tmp_path: Path) -> None:
    lm = tiny_lm()
    windows = TokenWindows.from_text(["the red cat sat on the mat. " * 40], lm.tokenizer, context=32)
    site = lm.resolve("1.resid_post")
    width = lm.width(site)
    dictionary = Autoencoder(
        Autoencoder.Config(n_features=20), TopK.Config(k=4).build(20), (site,), (site,), {site: width}
    )
    torch.nn.init.normal_(dictionary.W_dec)
    torch.nn.init.normal_(dictionary.W_enc)
    bundle = analyze(dictionary, live(lm, windows, [site]), tmp_path / "b.mono", lm=lm, config=Analysis(window=16))
    feature = next(f for f in map(bundle.feature, range(20)) if not f.is_dead)
    context = feature.interval(0)[0]
    assert "cat sat" in "".join(bundle.vocabulary[i] for i in bundle.tokens()[context.sequence])
    assert context.text == lm.tokenizer.decode(context.token_ids, clean_up_tokenization_spaces=False)
    assert len(feature.promoted) == len(feature.suppressed) == 20
    assert feature.promoted[0].value == bundle.column("logit_max")[feature.index]
    assert bundle.manifest["data"]["skip_first"] == 1
    assert bundle.manifest["dictionary"]["k"] == 4


def test_values_are_rounded_to_eleven_bits() -> None:
    values = np.float32([0.0, 1.0, 1 + 2**-11, 1 + 2**-10, np.pi, -np.pi, 1e-30])
    rounded = round_bits(values)
    assert rounded == pytest.approx(values, rel=2**-11)
    assert rounded[:4].tolist() == [0.0, 1.0, 1 + 2**-10, 1 + 2**-10]
    assert not (rounded.view(np.uint32) & 0x1FFF).any()


def test_the_card_says_what_was_measured_and_what_was_not(bundle: FeatureBundle) -> None:
    text = (bundle.path / "README.md").read_text()
    assert "| FVU | not measured |" in text
    assert "| tokens analyzed | 960 in 30 sequences |" in text
    assert "Features of an unnamed model at 1.resid_post" in text
