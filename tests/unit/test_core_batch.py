"""ActivationBatch: what counts survives flattening, in order."""

from __future__ import annotations

import torch

from monoscope.core.batch import ActivationBatch
from monoscope.core.site import Site

HERE, THERE = Site(0, "resid_post"), Site(1, "mlp_out")


def batch_of_two() -> ActivationBatch:
    x = torch.arange(2 * 3 * 2, dtype=torch.float32).view(2, 3, 2)
    return ActivationBatch(
        {HERE: x, THERE: x[..., :1] * 10},
        tokens=torch.tensor([[5, 6, 7], [8, 9, 0]]),
        mask=torch.tensor([[False, True, True], [True, True, False]]),
        positions=torch.arange(3).expand(2, 3),
        documents=torch.tensor([0, 1]),
    )


def test_flat_keeps_what_counts_in_order() -> None:
    batch = batch_of_two()
    flat = batch.flat()
    assert flat.activations[HERE].tolist() == [[2, 3], [4, 5], [6, 7], [8, 9]]
    assert flat.activations[THERE].tolist() == [[20], [40], [60], [80]]
    assert flat.tokens is not None
    assert flat.positions is not None
    assert flat.tokens.tolist() == [6, 7, 8, 9]
    assert flat.positions.tolist() == [1, 2, 0, 1]
    assert flat.mask is None
    assert flat.documents is None
    assert batch.n_tokens == flat.n_tokens == 4
    assert flat.flat().activations[HERE] is flat.activations[HERE]


def test_without_a_mask_every_token_counts() -> None:
    batch = ActivationBatch({HERE: torch.ones(2, 3, 4)})
    assert batch.n_tokens == 6
    assert batch.flat().activations[HERE].shape == (6, 4)
    assert batch.flat().tokens is None


def test_a_mask_on_flat_tokens_applies() -> None:
    batch = ActivationBatch({HERE: torch.arange(3.0)[:, None]}, mask=torch.tensor([True, False, True]))
    assert batch.flat().activations[HERE].tolist() == [[0.0], [2.0]]


def test_dtype_applies_to_activations_alone() -> None:
    moved = batch_of_two().to("cpu", torch.bfloat16)
    assert {x.dtype for x in moved.activations.values()} == {torch.bfloat16}
    assert moved.tokens is not None
    assert moved.mask is not None
    assert moved.tokens.dtype == torch.int64
    assert moved.mask.dtype == torch.bool
    assert moved.documents is not None
