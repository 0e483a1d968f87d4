"""delphi's latent cache against triples computed here, from the description of its files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from small_autoencoder import SITE, D, F, autoencoder
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import CannotHold, ConfigError, DataError, MismatchError
from monoscope.formats.delphi import modules, open_cache
from monoscope.formats.delphi_write import CacheSettings, boundaries, encoded, write_cache
from monoscope.formats.folder import LocalFolder
from monoscope.formats.open import find
from monoscope.harvest import ActivationSource, shuffle

ROWS, CTX = 6, 5


def triples(n_features: int = F, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens, and signed activations of which about one in six is not 0."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(ROWS, CTX, n_features, generator=generator)
    values = values * (torch.rand(values.shape, generator=generator) < 1 / 6)
    return torch.randint(0, 1000, (ROWS, CTX), generator=generator), values.half().float()


def write(directory: Path, values: Tensor, tokens: Tensor, **settings: int) -> None:
    half = ROWS // 2
    batches = [(tokens[:half], Acts(values[:half], values.shape[-1])), (tokens[half:], sparse(values[half:]))]
    write_cache(batches, directory, "layers.2", CacheSettings(**{"n_splits": 3} | settings))  # pyright: ignore


def sparse(values: Tensor) -> Acts:
    """The sparse layout, with features of a token in no order."""
    k = int((values != 0).sum(-1).max())
    indices = values.abs().topk(k, dim=-1).indices
    return Acts(values.gather(-1, indices), values.shape[-1], indices)


def test_files_are_as_described(tmp_path: Path) -> None:
    tokens, values = triples()
    write(tmp_path, values, tokens)
    expected = values.nonzero().numpy()
    read = []
    for first, last in [(0, 9), (10, 20), (21, 31)]:
        shard = load_file(tmp_path / "layers.2" / f"{first}_{last}.safetensors")
        assert shard["locations"].dtype == np.uint16
        assert shard["activations"].dtype == np.float16
        assert (shard["tokens"] == tokens.numpy()).all()
        own = expected[(expected[:, 2] >= first) & (expected[:, 2] <= last)]
        locations = shard["locations"].astype(int) + np.array([0, 0, first])
        assert (locations == own).all(), "row-major in (row, position, feature)"
        assert (shard["activations"] == values[tuple(own.T)].half().numpy()).all()
        read.append(len(own))
    assert sum(read) == len(expected) > 100
    settings = json.loads((tmp_path / "layers.2" / "config.json").read_text())
    assert (settings["n_tokens"], settings["cache_ctx_len"], settings["n_splits"]) == (ROWS * CTX, CTX, 3)
    assert not [name for name in (tmp_path / "layers.2").iterdir() if name.name.startswith(".")]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    tokens, values = triples()
    write(tmp_path, values, tokens)
    cache = open_cache(LocalFolder(tmp_path))
    assert (cache.module, cache.n_features) == ("layers.2", F)
    assert torch.equal(cache.acts().dense(), values)
    read = cache.tokens()
    assert read is not None
    assert torch.equal(read, tokens)
    entries = cache.entries(8, 12)  # two shards hold some of them
    rows, positions, features = values[..., 8:12].nonzero().unbind(1)
    assert torch.equal(entries.rows, rows)
    assert torch.equal(entries.positions, positions)
    assert torch.equal(entries.features, features + 8)
    assert torch.equal(entries.values, values[rows, positions, features + 8])


def test_a_cache_laid_out_by_hand_is_read(tmp_path: Path) -> None:
    (tmp_path / "layers.0.mlp").mkdir()
    locations = np.array([[0, 1, 2], [0, 3, 0], [2, 0, 1]])
    for first, dtype, values in [(0, np.uint16, [0.5, -2.0, 1.5]), (5, np.uint32, [3.0, 4.0, 0.25])]:
        save_file(
            {"locations": locations.astype(dtype), "activations": np.array(values, np.float16)},
            tmp_path / "layers.0.mlp" / f"{first}_{first + 4}.safetensors",
        )
    cache = open_cache(LocalFolder(tmp_path), "layers.0.mlp")
    dense = cache.acts(ctx=4).dense()
    expected = torch.zeros(3, 4, 10)
    expected[0, 1, 2], expected[0, 3, 0], expected[2, 0, 1] = 0.5, -2.0, 1.5
    expected[0, 1, 7], expected[0, 3, 5], expected[2, 0, 6] = 3.0, 4.0, 0.25
    assert torch.equal(dense, expected)
    assert cache.tokens() is None


def test_the_variant_without_shards_is_read(tmp_path: Path) -> None:
    found = {"locations": np.array([[0, 1, 2], [1, 0, 70000]]), "activations": np.array([0.1, 7e4], np.float32)}
    save_file(found, tmp_path / "layers.3.safetensors")
    cache = open_cache(LocalFolder(tmp_path))
    entries = cache.entries()
    assert entries.features.tolist() == [2, 70000]
    torch.testing.assert_close(entries.values, torch.tensor([0.1, 7e4]))
    with pytest.raises(DataError, match="nothing says how long rows are"):
        cache.acts()
    assert cache.acts(ctx=2, n_features=70001).values.shape == (2, 2, 1)


def test_boundaries() -> None:
    assert boundaries(10, 3) == [(0, 2), (3, 5), (6, 9)]
    assert boundaries(7, 1) == [(0, 6)]
    with pytest.raises(ConfigError, match="2 features are cut into 1 to 2 shards, found 3"):
        boundaries(2, 3)


@pytest.mark.parametrize(("feature", "dtype"), [(65535, np.uint16), (65536, np.uint32)])
def test_a_feature_beyond_16_bits_takes_32_in_its_shard(tmp_path: Path, feature: int, dtype: type) -> None:
    acts = Acts(torch.ones(1, 1, 1), 70000, torch.tensor([[[feature]]]))
    write_cache([(torch.zeros(1, 1, dtype=torch.long), acts)], tmp_path, "layers.0", CacheSettings(n_splits=1))
    shard = load_file(tmp_path / "layers.0" / "0_69999.safetensors")
    assert shard["locations"].dtype == dtype
    assert shard["locations"].tolist() == [[0, 0, feature]]


def test_a_shard_in_which_nothing_fires_is_empty(tmp_path: Path) -> None:
    values = torch.zeros(1, 2, 4)
    values[0, 1, 3] = 2
    write_cache(
        [(torch.zeros(1, 2, dtype=torch.long), Acts(values, 4))], tmp_path, "layers.0", CacheSettings(n_splits=2)
    )
    assert load_file(tmp_path / "layers.0" / "0_1.safetensors")["locations"].shape == (0, 3)
    assert torch.equal(open_cache(LocalFolder(tmp_path)).acts().dense(), values)


def test_the_least_that_is_kept(tmp_path: Path) -> None:
    values = torch.tensor([[[9e-6, 1.1e-5, -2e-5]]])
    write_cache(
        [(torch.zeros(1, 1, dtype=torch.long), Acts(values, 3))], tmp_path, "layers.0", CacheSettings(n_splits=1)
    )
    assert open_cache(LocalFolder(tmp_path)).entries().features.tolist() == [1, 2]


def test_a_value_that_fp16_does_not_hold_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    for value in (70000.0, float("nan")):
        acts = Acts(torch.tensor([[[1.0, value]]]), 2)
        with pytest.raises(CannotHold, match="feature 1 has an activation of"):
            write_cache([(torch.zeros(1, 1, dtype=torch.long), acts)], tmp_path, "layers.0", CacheSettings(n_splits=1))
    assert not list(tmp_path.iterdir())


def test_rows_have_one_length(tmp_path: Path) -> None:
    batches = [
        (torch.zeros(1, 3, dtype=torch.long), Acts(torch.ones(1, 3, 4), 4)),
        (torch.zeros(1, 2, dtype=torch.long), Acts(torch.ones(1, 2, 4), 4)),
    ]
    with pytest.raises(MismatchError, match="rows of one length"):
        write_cache(batches, tmp_path, "layers.0", CacheSettings(n_splits=1))


@pytest.mark.parametrize("module", ["../up", "a/b", "", ".hidden"])
def test_a_module_is_a_path_of_modules(tmp_path: Path, module: str) -> None:
    with pytest.raises(ConfigError, match="named by its path"):
        write_cache([], tmp_path, module, CacheSettings())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "1_4.safetensors"}, "should begin with feature 0: shards leave a gap"),
        ({"locations": np.array([[0, 0, 5]], np.uint16)}, "holds feature 5, and by its name its last one is 4"),
        ({"locations": np.array([[0, 0]], np.uint16)}, r"\[n, 3\] and \[n\] are expected"),
        ({"extra": np.zeros(1, np.float32)}, "extra, for which no rule is known"),
        ({"activations": np.array([np.inf], np.float16)}, "not finite"),
    ],
)
def test_broken_caches_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    found = {"locations": np.array([[0, 0, 1]], np.uint16), "activations": np.array([1], np.float16)}
    name = change.pop("name", "0_4.safetensors")
    (tmp_path / "m").mkdir()
    save_file(found | change, tmp_path / "m" / name)
    with pytest.raises(DataError, match=message):
        open_cache(LocalFolder(tmp_path)).entries()


def test_several_modules_are_told_apart(tmp_path: Path) -> None:
    tokens, values = triples()
    for module in ("layers.1", "layers.2"):
        write_cache([(tokens, Acts(values, F))], tmp_path, module, CacheSettings(n_splits=2))
    folder = LocalFolder(tmp_path)
    assert list(modules(folder)) == ["layers.1", "layers.2"]
    with pytest.raises(DataError, match=r"holds the caches of layers.1, layers.2; name one"):
        open_cache(folder)
    with pytest.raises(DataError, match=r"no cache of 'layers.3'"):
        open_cache(folder, "layers.3")
    assert open_cache(LocalFolder(tmp_path / "layers.1")).n_features == F
    with pytest.raises(DataError, match="is no latent cache"):
        empty = tmp_path / "nothing"
        empty.mkdir()
        open_cache(LocalFolder(empty))


class Rows(ActivationSource):
    """Sequences of random activations, one to a batch, in which not every token counts."""

    def __init__(self, x: Tensor, mask: Tensor) -> None:
        self.x, self.mask = x, mask
        self.sites, self.widths, self.n_tokens = (SITE,), {SITE: D}, int(mask.sum())

    @property
    def info(self) -> dict[str, Any]:
        return {"kind": "rows"}

    def __iter__(self) -> Iterator[ActivationBatch]:
        tokens = torch.arange(ROWS * CTX).view(ROWS, 1, CTX)
        for x, row, mask in zip(self.x[:, None], tokens, self.mask[:, None], strict=True):
            yield ActivationBatch({SITE: x}, row, mask)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def test_a_cache_is_recognized_described_and_no_dictionary(tmp_path: Path) -> None:
    tokens, values = triples()
    write(tmp_path, values, tokens)
    found = find(tmp_path)
    assert found.evidence == "layers.2/0_9.safetensors with locations"
    summary = found.layout.summary(found.folder)
    assert summary is not None
    module = summary["modules"]["layers.2"]
    assert (module["features"], module["shards"], module["rows"], module["context"]) == (F, 3, ROWS, CTX)
    assert module["activations"] == int((values != 0).sum())
    with pytest.raises(DataError, match=r"activations, and no dictionary; monoscope\.formats\.delphi\.open_cache"):
        found.open()


def test_a_dictionary_encodes_a_source_into_a_cache(tmp_path: Path) -> None:
    dictionary = autoencoder({"kind": "topk", "k": 4}).eval()
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(ROWS, CTX, D, generator=generator)
    mask = torch.rand(ROWS, CTX, generator=generator) < 0.8
    source = Rows(x, mask)
    write_cache(encoded(dictionary, source), tmp_path, "layers.0", CacheSettings())
    cache = open_cache(LocalFolder(tmp_path))
    expected = dictionary.encode(x).dense() * mask[..., None]
    torch.testing.assert_close(cache.acts().dense(), expected.detach(), rtol=1e-3, atol=1e-5)
    tokens = cache.tokens()
    assert tokens is not None
    assert tokens.flatten().tolist() == list(range(ROWS * CTX))


def test_shuffled_tokens_make_no_cache() -> None:
    source = Rows(torch.zeros(ROWS, CTX, D), torch.ones(ROWS, CTX, dtype=torch.bool))
    dictionary = autoencoder({"kind": "topk", "k": 4}).eval()
    with pytest.raises(MismatchError, match="whole sequences with their tokens"):
        list(encoded(dictionary, shuffle(source, tokens=8)))
