"""One paper a file. Importing this package makes every variant's kind known."""

from monoscope.dictionaries.variants.batch_topk import BatchTopK
from monoscope.dictionaries.variants.jumprelu import L0, JumpReLU, TargetL0
from monoscope.dictionaries.variants.relu import L1, ReLU
from monoscope.dictionaries.variants.topk import AuxK, TopK

__all__ = ["L0", "L1", "AuxK", "BatchTopK", "JumpReLU", "ReLU", "TargetL0", "TopK"]
