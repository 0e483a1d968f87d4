"""Compiles every Triton kernel for a GPU that need not be there: what runs the operators on the CPU compiles instead.

    python tests/compile_kernels.py 90     prints a line for each kernel: its name, warps and bytes of shared memory

TRITON_INTERPRET must not be set. Numbers that come out of the operators mean nothing.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.runtime.jit import JITFunction

from monoscope.ops.triton import adam, per_token, sparse, threshold

TYPES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.int64: "i64", torch.int32: "i32", torch.bool: "i1",
    bool: "i1", int: "i32", float: "fp32",
}  # fmt: skip
CAPABILITY = int(sys.argv[1])


def _compile(self: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **named: Any) -> None:
    options = {key: named.pop(key) for key in ("num_warps",) if key in named}
    given = dict(zip(self.arg_names, args, strict=False)) | named
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    divisible: dict[tuple[int, ...], list[list[Any]]] = {}
    for parameter in self.params:
        value, place = given[parameter.name], (parameter.num,)
        if parameter.is_constexpr:
            signature[parameter.name], constants[place] = "constexpr", value
        else:
            is_tensor = isinstance(value, Tensor)
            signature[parameter.name] = ("*" + TYPES[value.dtype]) if is_tensor else TYPES[type(value)]
            if is_tensor or (isinstance(value, int) and value % 16 == 0):
                divisible[place] = [["tt.divisibility", 16]]
    source = ASTSource(self, signature, constants, divisible)
    made = compile(source, target=GPUTarget("cuda", CAPABILITY, 32), options=options)
    print(self.__name__, made.metadata.num_warps, made.metadata.shared, flush=True)


JITFunction.run = _compile  # pyright: ignore[reportAttributeAccessIssue]

n, d, n_features, k = 64, 384, 6144, 32
for dtype in (torch.float32, torch.bfloat16):
    z, rows = torch.zeros(n, d, dtype=dtype), torch.zeros(n_features, d, dtype=dtype)
    b, indices, weights = torch.zeros(n_features), torch.zeros(n, k, dtype=torch.int64), torch.ones(n, k, dtype=dtype)
    per_token.top_per_token(z, rows, b, b, k, True)
    sparse.sparse_decode(weights, indices, rows)
    sparse.gathered_dot(z, rows, indices, b)
    sparse.sum_by_feature(weights, *sparse.by_feature(weights, indices, n_features), z)
    if dtype == torch.bfloat16:
        per_token.largest_per_group(z, rows, b, None, 32)
        threshold.above_threshold(z, rows, b, None, b, False, n_features)
        threshold.batch_bound(z, rows, b, None, n * k)
for unit_norm in (False, True):
    matrices = [torch.zeros(n_features, d) for _ in range(4)]
    adam.adam_rows_(*matrices, torch.tensor(1.0) if unit_norm else None, 1, 1e-3, 0.9, 0.999, 1e-8, unit_norm)
scores, counts = torch.zeros(10_000), torch.zeros(2048, dtype=torch.int32)
threshold._histogram[(1,)](scores, indices, counts, 10_000, SHIFT=21, DIGITS=2048, AT_ONCE=threshold.AT_ONCE)
