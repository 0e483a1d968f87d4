"""Layer TopK and batch-layer TopK: the features of all layers share one budget, in a cross-layer transcoder.

    layer_topk        keep = the k largest scores of a token over layers and features together
    batch_layer_topk  keep = the round(k N) largest positive scores of N tokens over layers and features together

``topk`` and ``batch_topk`` keep k in every layer; here k counts what a token keeps in all, however many layers there
are. Layers that need more features than others get them.

Source: OpenMOSS llamascopium, ``models/clt.py``. Shapes: N tokens.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from monoscope.core.errors import ConfigError
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.variants.batch_topk import BatchTopK
from monoscope.dictionaries.variants.topk import TopK


class LayerTopK(ActivationFunction.Config):
    """TopK over the features of all layers at once."""

    across_layers: ClassVar[bool] = True
    kind: Literal["layer_topk"] = "layer_topk"
    k: int = Field(default=64, ge=1, description="features kept per token, over all layers")

    def build(self, n_features: int) -> TopK:
        """The function for the number of features of all layers."""
        if self.k > n_features:
            raise ConfigError(f"k is {self.k}, more than the {n_features} features of all layers")
        return TopK(self)


class BatchLayerTopK(ActivationFunction.Config):
    """BatchTopK over the features of all layers at once."""

    across_layers: ClassVar[bool] = True
    kind: Literal["batch_layer_topk"] = "batch_layer_topk"
    k: float = Field(default=64.0, gt=0, description="mean number of features kept per token, over all layers")
    momentum: float = Field(default=0.95, ge=0, lt=1, description="of the running threshold")

    def build(self, n_features: int) -> BatchTopK:
        """The function for the number of features of all layers."""
        if self.k > n_features:
            raise ConfigError(f"k is {self.k:g}, more than the {n_features} features of all layers")
        return BatchTopK(self, n_features)
