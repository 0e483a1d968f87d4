"""Runs that train through the Triton kernels, under the interpreter where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

pytest.importorskip("triton", reason="needs triton, which has wheels for Linux alone")

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import NotFinite
from monoscope.core.site import Site
from monoscope.dictionaries import Recipe
from monoscope.dictionaries.initialize import Sample
from monoscope.dictionaries.normalize import Scale
from monoscope.ops import api
from monoscope.ops import triton as kernels
from monoscope.ops.triton.tiles import TILE
from monoscope.training import Training
from monoscope.training.descent import Descent

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter, where numbers are NaN

SITE, N, D, F = Site(0, "resid_post"), 24, 12, 40


@pytest.fixture
def to_kernels(monkeypatch: pytest.MonkeyPatch) -> Callable[[Descent], Descent]:
    """Sends CPU tensors the GPU's way, where steps are judged later."""

    def go(run: Descent) -> Descent:
        monkeypatch.setattr(api, "_backend", lambda *tensors: kernels)
        for name in ("tokens", "features", "width"):
            monkeypatch.setattr(TILE, name, 16)
        run.reads_late = True
        return run

    return go


def _run(**settings: object) -> Descent:
    recipe = Recipe.from_dict(
        {"wiring": {"kind": "autoencoder", "n_features": F}, "function": {"kind": "topk", "k": 4}}
    )
    dictionary = recipe.build((SITE,), (SITE,), {SITE: D}).train()
    x = _batches()[0].activations[SITE]
    dictionary.initialize_(recipe.initialize, Sample.of(x, x), torch.Generator().manual_seed(0))
    training = Training.from_dict({"tokens": 100 * N, "batch_tokens": N, "dead_after": 2 * N} | settings)
    return Descent("", recipe, training, dictionary, {SITE: Scale(1.0)})


def _batches() -> list[ActivationBatch]:
    generator = torch.Generator().manual_seed(1)
    return [ActivationBatch({SITE: torch.randn(N, D, generator=generator)}) for _ in range(3)]


def test_steps_through_kernels_are_the_steps_without(to_kernels: Callable[[Descent], Descent]) -> None:
    plain, fast = _run(), _run()
    for number, batch in enumerate(_batches()):
        plain.learn(batch, number)
    expected = plain.metrics()
    to_kernels(fast)
    for number, batch in enumerate(_batches()):
        fast.learn(batch, number)
    assert fast.metrics()["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    for (name, x), y in zip(fast.dictionary.named_parameters(), plain.dictionary.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_what_is_not_finite_moves_nothing_and_is_said_when_the_log_is_written(
    to_kernels: Callable[[Descent], Descent], clip: float
) -> None:
    first, second, _ = _batches()
    run = to_kernels(_run(clip=clip))
    assert run.learn(first, 0)
    second.activations[SITE][3, 2] = torch.nan
    before = [x.detach().clone() for x in run.dictionary.parameters()], run.health.age.clone()
    assert run.learn(second, 1)
    for x, y in zip(run.dictionary.parameters(), before[0], strict=True):
        assert torch.equal(x, y)
    assert torch.equal(run.health.age, before[1])
    with pytest.raises(NotFinite, match="1 of the last steps"):
        run.metrics()


def test_steps_left_out_on_a_gpu_are_counted(to_kernels: Callable[[Descent], Descent]) -> None:
    first, second, third = _batches()
    run = to_kernels(_run(on_nonfinite="skip"))
    second.activations[SITE][3, 2] = torch.nan
    for number, batch in enumerate((first, second)):
        run.learn(batch, number)
    assert run.metrics() == {"skipped": 1}
    run.learn(third, 2)
    assert run.metrics()["skipped"] == run.n_skipped == 1
