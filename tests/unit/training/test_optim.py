"""Optimizers against torch's own and against their formulas, on every layout that parameters have."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from monoscope import ops
from monoscope.core.batch import ActivationBatch
from monoscope.core.site import Site
from monoscope.dictionaries import Recipe
from monoscope.dictionaries.initialize import Sample
from monoscope.dictionaries.normalize import Scale
from monoscope.ops import cpu, reference
from monoscope.training.descent import Descent
from monoscope.training.optim import Adam, Optimizer, Sign, gradient_norm, in_memory_order
from monoscope.training.settings import Training


def _parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = (torch.randn(size, generator=generator) for size in ((50, 7), (50, 7), (3, 5, 4), (6,)))
    rows, transposed, several, vector = shapes
    rows = rows / rows.norm(dim=1, keepdim=True)
    return [nn.Parameter(t) for t in (rows, transposed.T, several.permute(2, 0, 1), vector)]


def _gradients(parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(100 + seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 0.1


@pytest.mark.parametrize("clip", [0.0, 0.05], ids=["free", "clipped"])
def test_adam_is_torchs_adam_with_clipping_and_rows_of_norm_1(clip: float) -> None:
    ours, theirs = _parameters(), _parameters()
    optimizer = Adam(lr=0.01).build(ours, [ours[0]])
    reference_optimizer = torch.optim.Adam(theirs, lr=0.01)
    for step in range(5):
        _gradients(ours, step)
        _gradients(theirs, step)
        optimizer.step((clip / (gradient_norm(ours) + 1e-6)).clamp_max(1) if clip else None)
        if clip:
            torch.nn.utils.clip_grad_norm_(theirs, clip)
        with torch.no_grad():
            grad = theirs[0].grad
            assert grad is not None
            grad -= (grad * theirs[0]).sum(1, keepdim=True) * theirs[0]
            reference_optimizer.step()
            theirs[0].div_(theirs[0].norm(dim=1, keepdim=True))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert a.stride() == b.stride()


@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_fast_adam_of_rows_is_the_reference(
    scale: float | None, unit_norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "UPDATE_ENTRIES", 13 * 7)
    factor = None if scale is None else torch.tensor(scale)
    states = []
    for update in (ops.adam_rows_, reference.adam_rows_):
        generator = torch.Generator().manual_seed(1)
        weight = torch.randn(50, 7, generator=generator)
        weight /= weight.norm(dim=1, keepdim=True)
        state = [weight, torch.zeros(50, 7), torch.zeros(50, 7)]
        for step in (1, 2, 3):
            grad = torch.randn(50, 7, generator=generator)
            settings = {"step": step, "lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-8}
            update(state[0], grad, *state[1:], **settings, scale=factor, unit_norm=unit_norm)
        states.append(state)
    for a, b in zip(*states, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert torch.allclose(states[0][0].norm(dim=1), torch.ones(50)) == unit_norm


@pytest.mark.parametrize("optimizer", [Adam(lr=0.01), Sign(lr=0.01)], ids=["adam", "sign"])
def test_state_that_was_saved_row_by_row_continues_the_same(optimizer: Optimizer) -> None:
    whole = _parameters()
    mover = optimizer.build(whole, [whole[0]])
    _gradients(whole, 0)
    mover.step()
    state = copy.deepcopy(mover.state_dict())
    for moments in state["state"].values():
        for name, tensor in moments.items():
            moments[name] = tensor.contiguous().clone(memory_format=torch.contiguous_format)
    resumed = [nn.Parameter(p.detach().clone()) for p in whole]
    again = optimizer.build(resumed, [resumed[0]])
    again.load_state_dict(state)
    for parameters, each in ((whole, mover), (resumed, again)):
        _gradients(parameters, 1)
        each.step()
    for a, b in zip(whole, resumed, strict=True):
        assert torch.equal(a, b)


def test_a_run_begun_at_one_rate_goes_on_at_it() -> None:
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    before = Adam().build([{"params": parameters, "lr": 0.5, "rate": 1.0}])
    parameters[0].grad, parameters[1].grad = torch.ones(2), torch.full((2,), -1.0)
    before.step()
    now = Adam().build([{"params": [], "lr": 1.0, "rate": 1.0}, {"params": parameters, "lr": 2.0, "rate": 2.0}])
    now.load_state_dict(before.state_dict())
    assert [(group["lr"], group["rate"]) for group in now.param_groups] == [(0.5, 1.0)]
    for parameter, sign in zip(parameters, (1, -1), strict=True):
        assert torch.equal(now.state[parameter]["exp_avg"], before.state[parameter]["exp_avg"])
        assert (now.state[parameter]["exp_avg"] * sign > 0).all()


@pytest.mark.parametrize(("tokens", "rate"), [(1_000, 6e-3), (1_000_000, 6e-3), (4_000_000, 3e-3), (10**8, 6e-4)])
def test_the_default_rate_falls_with_the_root_of_a_longer_run(tokens: int, rate: float) -> None:
    assert Training(tokens=tokens).lr == pytest.approx(rate)
    assert Training(tokens=tokens, optimizer=Adam(lr=0.02)).lr == 0.02
    assert Training(tokens=tokens, optimizer=Sign()).lr == Sign().lr


@pytest.mark.parametrize(
    ("optimizer", "writes", "decoder", "encoder"),
    [
        ({}, "0.mlp_in", 1.2e-2, 3e-3),
        ({}, "0.mlp_out", 6e-3, 6e-3),
        ({"lr": 1e-3}, "0.mlp_in", 1e-3, 1e-3),
        ({"kind": "sign", "lr": 1e-3}, "0.mlp_in", 1e-3, 1e-3),
    ],
    ids=["default", "of a transcoder", "set", "sign"],
)
def test_autoencoders_learn_at_two_rates_unless_one_is_set(
    optimizer: dict[str, Any], writes: str, decoder: float, encoder: float
) -> None:
    training = Training.from_dict({"tokens": 64, "batch_tokens": 64, "optimizer": {"kind": "adam"} | optimizer})
    recipe = Recipe.from_dict(
        {"wiring": {"kind": "autoencoder", "n_features": 32}, "function": {"kind": "topk", "k": 4}}
    )
    reads, written = (Site.parse("0.mlp_in"),), (Site.parse(writes),)
    widths = dict.fromkeys((*reads, *written), 8)
    dictionary = recipe.build(reads, written, widths).train()
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    dictionary.initialize_(recipe.initialize, Sample.of(x, x), torch.Generator().manual_seed(0))
    run = Descent("", recipe, training, dictionary, dict.fromkeys(widths, Scale(1.0, 0.0)))
    batch = ActivationBatch(dict.fromkeys(widths, x))
    run.learn(batch, 0)  # a transcoder's decoder is 0 before, and its encoder waits for it
    before = {name: parameter.detach().clone() for name, parameter in dictionary.named_parameters()}
    run.learn(batch, 0)
    moved = {name: (value - before[name]).abs().max().item() for name, value in dictionary.named_parameters()}
    assert moved["b_dec"] == pytest.approx(decoder, rel=0.3)  # Adam's first steps are about as long as its rate
    assert moved["W_enc"] == pytest.approx(encoder, rel=0.3)


def test_signed_momentum_moves_by_the_rate_and_keeps_rows_at_norm_1() -> None:
    rows, free = _parameters()[0], nn.Parameter(torch.zeros(3))
    mover = Sign(lr=0.01).build([rows, free], [rows])
    rows.grad, free.grad = torch.randn_like(rows), torch.tensor([1.0, -2.0, 0.0])
    mover.step(torch.tensor(0.5))
    torch.testing.assert_close(free.detach(), torch.tensor([-0.01, 0.01, 0.0]))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(50))


def test_memory_order_is_that_of_the_parameter() -> None:
    base = torch.arange(24.0).view(2, 3, 4)
    assert in_memory_order(base.permute(2, 0, 1), base.permute(2, 0, 1)).data_ptr() == base.data_ptr()
    torch.testing.assert_close(in_memory_order(base.permute(2, 0, 1), base.permute(2, 0, 1)), base.view(6, 4))
