"""The kernels as operators that PyTorch knows: ``torch.compile`` and autograd see through them.

A selection gives features ``indices [N, k]``; their values are then computed exactly. The backward pass touches
selected entries alone (see ``ops.cpu``), and its operators are the forward pass's own:

    dW_dec, dW_enc, db_enc   by_feature, sum_by_feature      d values   gathered_dot      d x   sparse_decode
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from monoscope.ops.selection import (
    AboveThreshold,
    AbsTopKPerToken,
    LargestPerGroup,
    Selection,
    TopKPerBatch,
    TopKPerToken,
)
from monoscope.ops.triton import adam, per_token, sparse, threshold

SLACK = 2**-6  # a threshold found in bf16 is lowered by this share, since scores are rounded to 2**-8 of themselves


def _operator(
    name: str, schema: str, run: Callable[..., Any], shapes: Callable[..., Any], written: tuple[str, ...] = ()
) -> Any:
    """A kernel under a name of its own; ``shapes`` says what it returns without running it."""

    def on_device_of_first(*args: Any) -> Any:
        with _on(args[0]):
            return run(*args)

    made = torch.library.custom_op(f"monoscope::{name}", on_device_of_first, mutates_args=written, schema=schema)
    made.register_fake(shapes)
    return made


def _on(x: Tensor) -> AbstractContextManager[Any]:
    return torch.cuda.device_of(x)  # Triton launches on the current device; nothing happens for a CPU tensor


def _some_width(z: Tensor, *_: Any) -> Tensor:
    return z.new_empty(len(z), torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


top_per_token = _operator(
    "top_per_token",
    "(Tensor z, Tensor rows, Tensor b, Tensor? norm, int k, bool is_signed) -> Tensor",
    per_token.top_per_token,
    lambda z, rows, b, norm, k, is_signed: z.new_empty(len(z), k, dtype=torch.int64),
)
largest_per_group = _operator(
    "largest_per_group",
    "(Tensor z, Tensor rows, Tensor b, Tensor? norm, int n_groups) -> Tensor",
    per_token.largest_per_group,
    lambda z, rows, b, norm, n_groups: z.new_empty(len(z), n_groups, dtype=torch.int64),
)
above_threshold = _operator(
    "above_threshold",
    "(Tensor z, Tensor rows, Tensor b, Tensor? norm, Tensor threshold, bool of_any_sign, int most) -> Tensor",
    threshold.above_threshold,
    _some_width,
)
batch_bound = _operator(
    "batch_bound",
    "(Tensor z, Tensor rows, Tensor b, Tensor? norm, int n_kept) -> Tensor",
    threshold.batch_bound,
    lambda z, rows, b, norm, n_kept: z.new_empty(1, dtype=torch.float32),
)
kth_largest = _operator(
    "kth_largest",
    "(Tensor scores, int k) -> Tensor",
    threshold.kth_largest,
    lambda scores, k: scores.new_empty(()),
)
gathered_dot = _operator(
    "gathered_dot",
    "(Tensor x, Tensor rows, Tensor indices, Tensor? bias) -> Tensor",
    sparse.gathered_dot,
    lambda x, rows, indices, bias: x.new_empty(indices.shape),
)
by_feature = _operator(
    "by_feature",
    "(Tensor values, Tensor indices, int n_features) -> (Tensor, Tensor)",
    sparse.by_feature,
    lambda values, indices, n_features: (
        indices.new_empty(indices.numel(), dtype=torch.int64),
        indices.new_empty(n_features + 1, dtype=torch.int64),
    ),
)
sum_by_feature = _operator(
    "sum_by_feature",
    "(Tensor weights, Tensor order, Tensor starts, Tensor x) -> (Tensor, Tensor)",
    sparse.sum_by_feature,
    lambda weights, order, starts, x: (
        x.new_empty(len(starts) - 1, x.shape[1], dtype=torch.float32),
        x.new_empty(len(starts) - 1, dtype=torch.float32),
    ),
)
_adam = _operator(
    "adam_rows_",
    "(Tensor(a!) weight, Tensor grad, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor? scale, int step, float lr, "
    "float beta1, float beta2, float eps, bool unit_norm) -> ()",
    adam.adam_rows_,
    lambda *_: None,
    written=("weight", "exp_avg", "exp_avg_sq"),
)
_sparse_decode = _operator(
    "sparse_decode",
    "(Tensor values, Tensor indices, Tensor rows) -> Tensor",
    sparse.sparse_decode,
    lambda values, indices, rows: rows.new_empty(len(values), rows.shape[1]),
)
_attach = _operator(
    "attach",
    "(Tensor values, Tensor indices, Tensor x, Tensor rows, Tensor b, Tensor? center) -> Tensor",
    lambda values, indices, x, rows, b, center: values.clone(),
    lambda values, indices, x, rows, b, center: torch.empty_like(values),
)


_last: tuple[Tensor, int, tuple[Tensor, Tensor]] | None = None


def _sorted(values: Tensor, indices: Tensor, n_features: int) -> tuple[Tensor, Tensor]:
    """``by_feature``, whose last answer is kept: the gradients of decoder and encoder ask for the same."""
    global _last
    if torch.compiler.is_compiling() or type(values) is not Tensor:
        return by_feature(values, indices, n_features)  # a compiler drops the second of two equal calls
    if _last is not None and len(_last[2][1]) == n_features + 1:
        kept, version, answer = _last
        # The kept tensor is alive, so another at its address shares its memory, and its version if nothing was written.
        if (kept.data_ptr(), kept.shape, version) == (values.data_ptr(), values.shape, values._version):
            return answer
    answer = by_feature(values, indices, n_features)
    _last = values, values._version, answer
    return answer


def _keep_decode(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _decode_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    values, indices, rows = ctx.saved_tensors
    g, drows = g.contiguous(), None
    needs_values, _, needs_rows = ctx.needs_input_grad
    dvalues = gathered_dot(g, rows, indices, None).to(values.dtype) if needs_values else None
    if needs_rows:
        drows = sum_by_feature(values, *_sorted(values, indices, len(rows)), g)[0].to(rows.dtype)
    return dvalues, None, drows


def _keep_attach(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
    _, indices, x, rows, _, center = inputs
    ctx.save_for_backward(output, indices, x, rows, center)


def _attach_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    values, indices, x, rows, center = ctx.saved_tensors
    delta = (g * (values != 0)).contiguous()
    z = x if center is None else x - center
    drows, db = sum_by_feature(delta, *_sorted(values, indices, len(rows)), z)
    dx = _sparse_decode(delta, indices, rows).to(x.dtype) if ctx.needs_input_grad[2] else None
    # The sum of dx over tokens, taken before the product with the rows: a matrix-vector product in place of N k rows.
    dcenter = None if center is None else -(db @ rows.float()).to(center.dtype)
    return None, None, dx, drows.to(rows.dtype), db.to(rows.dtype), dcenter


_sparse_decode.register_autograd(_decode_backward, setup_context=_keep_decode)
_attach.register_autograd(_attach_backward, setup_context=_keep_attach)


def encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    selection: Selection,
    center: Tensor | None,
    norm: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """``reference.encode`` as values and indices [n, k], rows padded with zeros where their numbers differ.

    A ``dtype`` narrower than the input's selects in that precision, int8 in bf16; what was selected is then computed
    exactly.
    """
    dtype = torch.bfloat16 if dtype == torch.int8 else dtype
    rows = W_enc.T.contiguous()  # [F, d], free when the encoder is stored feature by feature
    with torch.no_grad():
        z = (x if center is None else x - center).contiguous()
        indices = _selected(z.to(dtype), rows.to(dtype), b_enc, selection, norm)
        values = gathered_dot(z, rows, indices, b_enc)
        if not selection.is_signed:
            values = values.relu()
        score = values if norm is None else values * norm[indices.clamp_min(0)]
        values = values * _still_kept(score, indices, selection)
        indices = indices.clamp_min(0)
    return attached(values, indices, x, rows, b_enc, center), indices


def attached(values: Tensor, indices: Tensor, x: Tensor, rows: Tensor, b_enc: Tensor, center: Tensor | None) -> Tensor:
    """Computed values as a function of the encoder, whose gradient goes through entries that are not 0."""
    return _attach(values, indices, x.contiguous(), rows, b_enc, center)


def lowered(bound: Tensor, dtype: torch.dtype) -> Tensor:
    """A bound that scores in a narrower precision do not miss."""
    return bound if dtype == torch.float32 else bound - SLACK * bound.abs()


def sparse_decode(values: Tensor, indices: Tensor, W_dec: Tensor) -> Tensor:
    """``reference.sparse_decode``."""
    return _sparse_decode(values, indices, W_dec.contiguous())


def adam_rows_(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    scale: Tensor | None,
    unit_norm: bool,
) -> None:
    """``reference.adam_rows_``; a step whose scale is not finite changes nothing."""
    _adam(weight, grad, exp_avg, exp_avg_sq, scale, step, lr, *betas, eps, unit_norm)


def _selected(z: Tensor, rows: Tensor, b: Tensor, selection: Selection, norm: Tensor | None) -> Tensor:
    match selection:
        case TopKPerToken(k) | AbsTopKPerToken(k):
            return top_per_token(z, rows, b, norm, k, selection.is_signed)
        case LargestPerGroup(n_groups):
            return largest_per_group(z, rows, b, norm, n_groups)
        case AboveThreshold(bound):
            return above_threshold(z, rows, b, norm, bound, False, len(rows))
        case TopKPerBatch(k):
            bound = batch_bound(z, rows, b, norm, _budget(k, len(z), len(rows)))
            return above_threshold(z, rows, b, norm, lowered(bound, z.dtype), False, len(rows))
        case _:
            raise AssertionError("layers are encoded by encode_layers")


def _still_kept(score: Tensor, indices: Tensor, selection: Selection) -> Tensor | float:
    # What a threshold lets through is decided by exact scores; a batch's own threshold lets a few more through.
    match selection:
        case TopKPerBatch(k):
            return score >= kth_largest(score.float(), max(1, round(k * len(score))))
        case AboveThreshold(bound):
            return score > bound[indices.clamp_min(0)]
        case _:
            return 1.0


def _budget(k: float, n: int, n_features: int) -> int:
    return max(1, min(round(k * n), n * n_features))
