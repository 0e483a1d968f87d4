"""One paper a file. Importing this package makes every variant's kind known."""

from monoscope.dictionaries.variants.abs_topk import AbsTopK
from monoscope.dictionaries.variants.batch_topk import BatchTopK
from monoscope.dictionaries.variants.gated import GateAux, Gated, GateL1
from monoscope.dictionaries.variants.group_max import GroupMax
from monoscope.dictionaries.variants.jumprelu import L0, JumpReLU, TargetL0
from monoscope.dictionaries.variants.layer_topk import BatchLayerTopK, LayerTopK
from monoscope.dictionaries.variants.lp import Lp
from monoscope.dictionaries.variants.matryoshka import Matryoshka
from monoscope.dictionaries.variants.pursuit import Pursuit
from monoscope.dictionaries.variants.relu import L1, ReLU
from monoscope.dictionaries.variants.tanh import PreAct, Tanh, TanhQuad
from monoscope.dictionaries.variants.topk import AuxK, MultiTopK, TopK
from monoscope.dictionaries.variants.variational import KL, Variational

__all__ = [
    "KL",
    "L0",
    "L1",
    "AbsTopK",
    "AuxK",
    "BatchLayerTopK",
    "BatchTopK",
    "GateAux",
    "GateL1",
    "Gated",
    "GroupMax",
    "JumpReLU",
    "LayerTopK",
    "Lp",
    "Matryoshka",
    "MultiTopK",
    "PreAct",
    "Pursuit",
    "ReLU",
    "Tanh",
    "TanhQuad",
    "TargetL0",
    "TopK",
    "Variational",
]
