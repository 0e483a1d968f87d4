"""MOLT against what it becomes in its limits: a transcoder, linear regression, and the product of its factors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.errors import ConfigError
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary, Molt, Recipe
from monoscope.dictionaries.initialize import Sample

IN, OUT = Site(1, "mlp_in"), Site(1, "mlp_out")
TERMS = {"reconstruction": {"kind": "squared_error"}}
L1 = TERMS | {"sparsity": {"kind": "l1"}}


def build(
    d: int = 12,
    d_out: int = 10,
    *,
    function: dict[str, Any] | None = None,
    terms: dict[str, Any] = TERMS,
    **wiring: Any,
) -> Molt:
    chosen = Recipe.from_dict(
        {
            "wiring": {"kind": "molt", **wiring},
            "function": function or {"kind": "topk", "k": 4},
            "terms": terms,
        }
    )
    dictionary = chosen.build((IN,), (OUT,), {IN: d, OUT: d_out})
    assert isinstance(dictionary, Molt)
    dictionary.initialize_(chosen.initialize, Sample.of(*data(d, d_out)), torch.Generator().manual_seed(0))
    return dictionary


def data(d: int, d_out: int, n: int = 300) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, d, generator=generator), torch.randn(n, d_out, generator=generator)


def maps(dictionary: Molt) -> Tensor:
    """Every transform, written out ``[F, d, d_out]``."""
    return torch.cat([a @ b for a, b in zip(dictionary.A, dictionary.B, strict=True)])


def test_ranks_halve_and_their_numbers_double() -> None:
    dictionary = build(192, 192, n_features=62)
    assert [tuple(a.shape) for a in dictionary.A] == [(2 << g, 192, 96 >> g) for g in range(5)]
    assert len({a.numel() for a in dictionary.A}) == 1
    assert dictionary.feature_blocks == (2, 4, 8, 16, 32)
    assert dictionary.features_of("A.1") == dictionary.features_of("B.1") == range(2, 6)


def test_norms_are_those_of_the_written_out_transforms_in_value_and_gradient() -> None:
    dictionary = build(n_features=21, groups=3, rank=8).double()
    weight = torch.linspace(-1, 2, 21, dtype=torch.float64)
    norms = dictionary.decoder_norm()
    expected = maps(dictionary).norm(dim=(1, 2))
    torch.testing.assert_close(norms, expected)
    parameters = [*dictionary.A, *dictionary.B]
    by_trace = torch.autograd.grad((norms * weight).sum(), parameters)
    written_out = torch.autograd.grad((expected * weight).sum(), parameters)
    for got, plain in zip(by_trace, written_out, strict=True):
        torch.testing.assert_close(got, plain)
    product = torch.cat(
        [a.norm(dim=(1, 2)) * b.norm(dim=(1, 2)) for a, b in zip(dictionary.A, dictionary.B, strict=True)]
    )
    assert (norms < 0.9 * product).all()  # the product of the factors' norms is only a bound


def test_transforms_of_a_constant_coordinate_are_a_transcoder() -> None:
    x, target = data(12, 10)
    molt = build(13, 10, function={"kind": "relu"}, terms=L1, n_features=40, groups=1, rank=1)
    chosen = {"wiring": {"kind": "autoencoder", "n_features": 40}, "function": {"kind": "relu"}, "terms": L1}
    transcoder: Dictionary = Recipe.from_dict(chosen).build((IN,), (OUT,), {IN: 12, OUT: 10})
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            transcoder.get_parameter(name).normal_(generator=generator)
        molt.W_enc[:12], molt.W_enc[12] = transcoder.get_parameter("W_enc"), 0
        molt.b_enc.copy_(transcoder.get_parameter("b_enc"))
        molt.b_dec.copy_(transcoder.get_parameter("b_dec"))
        molt.A[0].zero_()
        molt.A[0][:, 12] = 1
        molt.B[0].copy_(transcoder.get_parameter("W_dec")[:, None])
    step = molt(torch.cat([x, torch.ones(len(x), 1)], dim=1), target)
    torch.testing.assert_close(step.recon, transcoder(x, target).recon, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(molt.decoder_norm(), transcoder.decoder_norm())


def test_one_transform_of_full_rank_that_is_always_on_reaches_linear_regression() -> None:
    x, target = data(12, 10)
    target = target + x @ torch.randn(12, 10, generator=torch.Generator().manual_seed(3))
    molt = build(function={"kind": "relu"}, terms=L1, n_features=1, groups=1, rank=10)
    with torch.no_grad():
        molt.W_enc.zero_()
        molt.b_enc.fill_(1.0)
    trained = [*molt.A, *molt.B, molt.b_dec]
    optimizer = torch.optim.LBFGS(trained, max_iter=400, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = molt(x, target).error.pow(2).mean()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    columns = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    best = target - columns @ torch.linalg.lstsq(columns, target).solution
    torch.testing.assert_close(molt(x, target).error.pow(2).mean(), best.pow(2).mean(), rtol=1e-3, atol=0)


def test_at_the_start_gates_are_open_and_transforms_small() -> None:
    x, target = data(64, 48, n=2000)
    molt = build(64, 48, n_features=31, terms=TERMS)
    open_share = (molt.preacts(x) > 0).float().mean()
    assert 0.4 < open_share < 0.6
    sizes = torch.einsum("nd,fdo->nfo", x, maps(molt)).norm(dim=2)
    assert sizes.mean() < 0.15 * target.norm(dim=1).mean()
    square = sizes.pow(2).mean(0)
    for group in molt.groups:  # no rank starts louder than another
        assert 0.8 < square[group.start : group.stop].mean() / square.mean() < 1.2


def test_decoding_needs_x() -> None:
    molt = build(n_features=21, groups=3, rank=8)
    with pytest.raises(ValueError, match="pass decode"):
        molt.decode(Acts(torch.zeros(2, 21), 21))


@pytest.mark.parametrize(
    ("wiring", "message"),
    [
        ({"n_features": 30, "groups": 5, "rank": 16}, "multiple of 31, found 30; the nearest is 31"),
        ({"n_features": 7, "groups": 3, "rank": 16}, "at most the width 10; found 16"),
        ({"n_features": 7, "groups": 3, "rank": 6}, "a multiple of 4 and at most the width 10; found 6"),
        ({"n_features": 31, "groups": 5}, "at most the width 10; found 16; choose another rank or fewer groups"),
        ({"n_features": 3, "groups": 2, "rank": 4}, "k is 4, more than the dictionary's 3 features"),
    ],
)
def test_ranks_that_cannot_be_had_are_refused(wiring: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**wiring)


def test_sites_that_make_no_sense_are_refused() -> None:
    chosen = Recipe.from_dict({"wiring": {"kind": "molt", "n_features": 7, "groups": 3, "rank": 8}})
    with pytest.raises(ConfigError, match="learns the identity"):
        chosen.build((IN,), (IN,), {IN: 12})
    with pytest.raises(ConfigError, match="found 2 read, 1 written"):
        chosen.build((IN, OUT), (OUT,), {IN: 12, OUT: 12})


def test_ranks_may_be_given_one_by_one_in_the_order_of_features() -> None:
    dictionary = build(12, 10, n_features=9, ranks=[[1, 4], [3, 3], [4, 2]])
    assert [tuple(a.shape) for a in dictionary.A] == [(4, 12, 1), (3, 12, 3), (2, 12, 4)]
    assert dictionary.feature_blocks == (4, 3, 2)
    x = data(12, 10)[0]
    acts = dictionary.encode(x)
    direct = torch.einsum("nf,nd,fde->ne", acts.dense(), x, maps(dictionary)) + dictionary.b_dec
    torch.testing.assert_close(dictionary.decode(acts, x), direct)
    assert Molt.Config.from_dict(dictionary.config.to_dict()) == dictionary.config


@pytest.mark.parametrize("ranks", [[[1, 4], [1, 5]], [[0, 9]], [[1, 4], [3, 3]]])
def test_given_ranks_that_contradict_each_other_are_refused(ranks: list[list[int]]) -> None:
    with pytest.raises(ConfigError, match="ranks"):
        build(12, 10, n_features=9, ranks=ranks)
