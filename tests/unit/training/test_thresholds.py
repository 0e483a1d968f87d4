"""Thresholds in the place of a selection: as many features fire, and the same ones mostly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from dictionary_cases import WIRINGS, build, pairs
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import ConfigError, DataError
from monoscope.dictionaries import Autoencoder, Dictionary, load
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.variants import JumpReLU
from monoscope.harvest import ActivationSource, from_array
from monoscope.training import thresholds as module
from monoscope.training import to_jumprelu

SITE, D, F, K = from_array(torch.zeros(2, 1)).sites[0], 64, 512, 16


class Once(ActivationSource):
    """A source of one batch."""

    def __init__(self, batch: ActivationBatch) -> None:
        self.batch, self.sites, self.n_tokens = batch, tuple(batch.activations), None
        self.widths = {site: x.shape[-1] for site, x in batch.activations.items()}

    @property
    def info(self) -> dict[str, Any]:
        return {"kind": "test"}

    def __iter__(self) -> Iterator[ActivationBatch]:
        yield self.batch

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert state == {}


def gaussian(n: int, seed: int) -> Tensor:
    """Activations without structure."""
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def autoencoder(table: dict[str, Any], **wiring: Any) -> Autoencoder:
    """An autoencoder with random unit directions."""
    config = Autoencoder.Config(n_features=F, **wiring)
    built = config.build(ActivationFunction.Config.from_dict(table), (SITE,), (SITE,), {SITE: D})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        rows = torch.nn.functional.normalize(torch.randn(F, D, generator=generator), dim=1)
        built.W_enc.copy_(rows.T)
        built.W_dec.copy_(rows * torch.linspace(0.5, 2, F)[:, None] if wiring else rows)
        built.b_enc.copy_(torch.linspace(-0.5, 0.5, F))
    return built.eval()


def l0(dictionary: Dictionary, x: Tensor) -> float:
    """Mean number of features that fire."""
    return dictionary.encode(x).l0().float().mean().item()


TABLES = [{"kind": "topk", "k": K}, {"kind": "group_max", "k": K}]
SCALED = {"scale_by_decoder_norm": True, "unit_norm": False}


@pytest.mark.parametrize("wiring", [{}, SCALED], ids=["plain", "scaled"])
@pytest.mark.parametrize("per_feature", [False, True])
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table["kind"])
def test_as_many_features_fire_on_fresh_data(table: dict[str, Any], per_feature: bool, wiring: dict[str, Any]) -> None:
    dictionary = autoencoder(table, **wiring)
    done = to_jumprelu(dictionary, from_array(gaussian(8192, 0)), per_feature=per_feature, tokens=8192)
    assert isinstance(done.activation, JumpReLU)
    assert l0(done, gaussian(8192, 0)) == pytest.approx(K, abs=1e-3)
    assert l0(done, gaussian(8192, 9)) == pytest.approx(K, abs=0.2)


def test_each_feature_fires_as_often_as_before() -> None:
    dictionary, x = autoencoder(TABLES[0]), gaussian(8192, 0)
    done = to_jumprelu(dictionary, from_array(x), per_feature=True, tokens=8192)
    before, after = ((d.encode(x).dense() != 0).sum(0) for d in (dictionary, done))
    assert before.min() < 100 < 400 < before.max()
    assert torch.equal(after, before)
    one = to_jumprelu(dictionary, from_array(x), tokens=8192)
    assert one.get_parameter("activation.threshold").unique().numel() == 1
    assert not torch.equal((one.encode(x).dense() != 0).sum(0), before)


def test_what_fires_has_the_value_it_had() -> None:
    dictionary, x = autoencoder(TABLES[0]), gaussian(512, 3)
    before, after = (d.encode(x).dense() for d in (dictionary, to_jumprelu(dictionary, from_array(gaussian(8192, 0)))))
    both = (before != 0) & (after != 0)
    torch.testing.assert_close(before[both], after[both])
    assert both.sum() > 0.6 * (before != 0).sum()


def test_another_l0_may_be_asked_of_a_threshold() -> None:
    dictionary = autoencoder({"kind": "batch_topk", "k": float(K)}).train()
    for seed in range(8):
        dictionary.encode(gaussian(1024, seed))
    for wanted in (4.0, 20.5):
        done = to_jumprelu(dictionary, from_array(gaussian(8192, 0)), l0=wanted, tokens=8192)
        assert l0(done, gaussian(8192, 9)) == pytest.approx(wanted, abs=0.2)
        assert done.provenance["thresholds"] == {"from": "jumprelu", "l0": wanted, "tokens": 8192}


def test_features_are_taken_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    dictionary, source = autoencoder(TABLES[0]), from_array(gaussian(2048, 0))
    whole = [to_jumprelu(dictionary, source, per_feature=each, tokens=2048) for each in (False, True)]
    monkeypatch.setattr(module, "ENTRIES", 2048 * 7)
    parts = [to_jumprelu(dictionary, source, per_feature=each, tokens=2048) for each in (False, True)]
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a.activation.threshold, b.activation.threshold, rtol=1e-6, atol=1e-6)


def test_it_is_saved_and_the_source_is_where_it_was(tmp_path: Path) -> None:
    source = from_array(gaussian(4096, 0), batch_tokens=512)
    first = next(iter(source)).activations
    position = source.state_dict()
    done = to_jumprelu(autoencoder(TABLES[0]), source, tokens=2000)
    assert source.state_dict() == position
    assert first.keys() == {next(iter(source.sites))}
    done.save(tmp_path / "d")
    x = gaussian(64, 5)
    assert torch.equal(load(tmp_path / "d").encode(x).dense(), done.encode(x).dense())
    assert load(tmp_path / "d").provenance["thresholds"]["tokens"] == 2048


@pytest.mark.parametrize(("function", "wiring"), pairs("topk"))
def test_every_wiring_is_converted(function: str, wiring: str) -> None:
    dictionary = build(function, wiring).frozen()
    case = WIRINGS[wiring]
    generator = torch.Generator().manual_seed(8)
    values = {site: torch.randn(*case.batch, w, generator=generator) for site, w in dictionary.widths.items()}
    batch = ActivationBatch(values)
    for per_feature in (False, True):
        done = to_jumprelu(dictionary, Once(batch), per_feature=per_feature, tokens=1)
        x, _ = dictionary.gather(batch)
        assert l0(done, x) == pytest.approx(l0(dictionary, x), abs=0.02)


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        ({"kind": "abs_topk", "k": K}, {}, "'abs_topk', whose activations may be negative"),
        ({"kind": "relu"}, {}, "'relu', which selects nothing"),
        (TABLES[0], {"l0": 4.0, "per_feature": True}, "leave l0 out"),
        (TABLES[0], {"l0": 0.0}, "l0 is 0, not between 0 and the dictionary's 512 features"),
        (TABLES[0], {"l0": 600.0}, "l0 is 600"),
    ],
)
def test_what_has_no_thresholds_is_refused(table: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_jumprelu(autoencoder(table), from_array(gaussian(64, 0)), **settings)


def test_a_source_without_tokens_that_count_is_refused() -> None:
    nothing = ActivationBatch({SITE: gaussian(8, 0)[None]}, mask=torch.zeros(1, 8, dtype=torch.bool))
    with pytest.raises(DataError, match="no activations that count"):
        to_jumprelu(autoencoder(TABLES[0]), Once(nothing))
