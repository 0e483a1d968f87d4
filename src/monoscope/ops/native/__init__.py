"""Compiled kernels of the CPU path: optional, built on first use, the same results as ``ops.reference``."""

from monoscope.ops.native.kernels import Kernels
from monoscope.ops.native.loading import kernels, pure_pytorch

__all__ = ["Kernels", "kernels", "pure_pytorch"]
