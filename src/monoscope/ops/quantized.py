"""Candidates for TopK of a dense encoder, chosen by 8-bit products in PyTorch.

    x_q = round(x / s_n) in -127..127, s_n = max |x| / 127 of a token        W_q likewise, s_f of a feature
    score / s_n = x_q . W_q s_f norm_f + b_f norm_f / s_n

in bf16; that a token's scores are divided by its s_n changes nothing about their order. Products are oneDNN's, of x_q
moved by 128, since processors multiply unsigned by signed numbers. Shapes: n tokens, F features, d width.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monoscope.ops.blocks import block_size, has_instructions, multiplies_bf16
from monoscope.ops.largest import largest_per_row
from monoscope.ops.native import kernels

STEPS = 127
MIDDLE = 128


def fastest_dtype(device: torch.device) -> torch.dtype | None:
    """The precision in which a device selects features fastest: int8, bf16, or None, that of the activations."""
    if device.type != "cpu":
        return torch.bfloat16
    if multiplies_int8() and not has_instructions("amx_tile"):
        return torch.int8
    return torch.bfloat16 if multiplies_bf16() else None


def multiplies_int8() -> bool:
    """Whether 8-bit numbers are multiplied by instructions of this processor: in compiled kernels, or by oneDNN."""
    if (native := kernels()) is not None:
        return native.multiplies_int8
    return has_instructions("vnni") and hasattr(torch.ops.onednn, "qlinear_pointwise")


def candidates(
    z: Float[Tensor, "n d"],
    rows: Float[Tensor, "F d"],
    b_enc: Float[Tensor, " F"],
    norm: Float[Tensor, " F"] | None,
    count: int,
) -> Int[Tensor, "n count"]:
    """Features of each token's largest scores ``(z @ rows.T + b_enc) norm``, about; those that are not finite first."""
    onednn = torch.ops.onednn
    step, weight = _rounded(rows)
    bias = torch.where(step.isfinite(), b_enc, torch.inf)
    step = torch.where(step.isfinite(), step, 0)
    if norm is not None:
        step, bias = step * norm, bias * norm
    weight = onednn.qlinear_prepack(weight.to(torch.int8), None)
    zeros, bias = torch.zeros(len(rows), dtype=torch.long), bias.bfloat16()
    found = []
    for some in z.split(block_size(len(z), len(rows), torch.bfloat16)):
        length, x = _rounded(some)
        x = x.add_(MIDDLE).to(torch.uint8)
        score = onednn.qlinear_pointwise(
            x, 1.0, MIDDLE, weight, step, zeros, None, 1.0, 0, torch.bfloat16, "none", [], ""
        )
        score.addcmul_(bias, length.reciprocal().bfloat16()[:, None])
        found.append(largest_per_row(score, count))
    return torch.cat(found)


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    # Rows in whole steps, and the length of a row's step.
    step = rows.abs().amax(1).div_(STEPS)
    step = torch.where(step == 0, 1.0, step)
    return step, torch.mul(rows, step.reciprocal()[:, None]).round_()
