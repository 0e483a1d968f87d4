"""The ops on a GPU, in Triton.

    encode          a matrix product in tiles, each of which keeps its few best entries or compares with a threshold: no
                    [N, F] reaches memory. What is selected is then computed exactly, in fp32, from N k dot products
    sparse_decode   a weighted sum of k decoder rows for each token; the values' gradient, k dot products
    gradients of both weights: the entries sorted by feature, a feature's rows summed in one place: no [N k, d], no
                    atomic additions of floats, so that two runs give the same bits

Every kernel equals ``ops.reference`` under Triton's interpreter, on a CPU, and compiles for compute capabilities 8.0
and 9.0. They have never run on a GPU, and nothing of their speed has been measured: ``benchmarks/bench_gpu.py`` is
ready to do so.

A selection whose number of entries per token depends on the data (``TopKPerBatch``, ``AboveThreshold``, thresholds
that learn) reads that one number back, since it is a shape; the others wait for nothing.
"""

from monoscope.ops.triton.above import encode_above
from monoscope.ops.triton.layers import encode_layers
from monoscope.ops.triton.library import adam_rows_, encode, kth_largest, sparse_decode

__all__ = ["adam_rows_", "encode", "encode_above", "encode_layers", "kth_largest", "sparse_decode"]
