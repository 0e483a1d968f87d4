"""The one place that knows layouts, kernels and devices."""

from monoscope.ops.api import decode, encode, kth_largest, pursue
from monoscope.ops.mixture import mixture
from monoscope.ops.selection import (
    AboveThreshold,
    AbsTopKPerToken,
    LargestPerGroup,
    Selection,
    TopKPerBatch,
    TopKPerToken,
)

__all__ = [
    "AboveThreshold",
    "AbsTopKPerToken",
    "LargestPerGroup",
    "Selection",
    "TopKPerBatch",
    "TopKPerToken",
    "decode",
    "encode",
    "kth_largest",
    "mixture",
    "pursue",
]
