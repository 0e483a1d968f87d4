"""The one place that knows layouts, kernels and devices."""

from monoscope.ops.api import (
    adam_rows_,
    decode,
    encode,
    encode_above,
    encode_layers,
    kth_largest,
    moves_only_finite,
    pursue,
)
from monoscope.ops.blocks import fastest_dtype
from monoscope.ops.jump import fires_above, jump
from monoscope.ops.mixture import mixture
from monoscope.ops.selection import (
    AboveThreshold,
    AbsTopKPerToken,
    EachLayer,
    LargestPerGroup,
    Selection,
    TopKPerBatch,
    TopKPerToken,
)

__all__ = [
    "AboveThreshold",
    "AbsTopKPerToken",
    "EachLayer",
    "LargestPerGroup",
    "Selection",
    "TopKPerBatch",
    "TopKPerToken",
    "adam_rows_",
    "decode",
    "encode",
    "encode_above",
    "encode_layers",
    "fastest_dtype",
    "fires_above",
    "jump",
    "kth_largest",
    "mixture",
    "moves_only_finite",
    "pursue",
]
