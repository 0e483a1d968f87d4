"""TopK; AuxK, which revives its dead features; multi-TopK, which trains for larger k as well.

    keep = the k largest scores of the token        acts = max(pre, 0) * keep        (relu = False: acts = pre * keep)

    AuxK:  e = target - recon, held fixed           e_hat = the k_aux largest dead features' reconstruction, no b_dec
           value = sum ||e - e_hat||^2 / sum ||e - mean(e)||^2

    multi-TopK:  the reconstruction error with 4k features kept, beside that with k

Source: Gao et al. 2024 (arXiv:2406.04093), section 2.3 and appendix A.2. Shapes: N tokens, F features, d width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.core.errors import ConfigError
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.objective import Term, total_variance
from monoscope.dictionaries.step import Step

if TYPE_CHECKING:
    from monoscope.dictionaries.variants.layer_topk import LayerTopK

FEW = 3  # dead features for one that AuxK keeps; products of so few are faster dense


class TopK(ActivationFunction):
    """The k largest scores of each token survive, if positive; without a ReLU, whatever their sign."""

    class Config(ActivationFunction.Config):
        """Settings of TopK."""

        kind: Literal["topk"] = "topk"
        k: int = Field(default=64, ge=1, description="features kept per token")
        relu: bool = Field(default=True, description="False: keep negative ones where fewer than k are positive")

        def build(self, n_features: int) -> TopK:
            """The function for a number of features."""
            if self.k > n_features:
                raise ConfigError(f"k is {self.k}, more than the dictionary's {n_features} features")
            return TopK(self)

    def __init__(self, config: Config | LayerTopK) -> None:
        super().__init__()
        self.config, self.k = config, config.k
        self.relu = not isinstance(config, TopK.Config) or config.relu
        self.is_signed = not self.relu  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def selection(self) -> ops.TopKPerToken | None:
        """The k largest scores of each token; None without a ReLU, as rules keep positive pre-activations alone."""
        return ops.TopKPerToken(self.k) if self.relu else None

    def forward(self, pre: Float[Tensor, "*batch F"], norm: Float[Tensor, "*site F"] | None = None) -> Acts:
        """Feature activations, in the sparse layout."""
        score = pre.detach() if norm is None else pre.detach() * norm
        acts = ops.top_per_token(pre, score, self.k)
        return dataclasses.replace(acts, values=acts.values.relu()) if self.relu else acts

    def frozen(self) -> Self:
        """Itself."""
        return self


class MultiTopK(Term):
    """FVU of a reconstruction from several times k features, so that a dictionary also serves at another k.

    value = sum ||target - recon of the (factor k) largest scores||^2 / sum ||target - mean(target)||^2
    """

    needs_function: ClassVar[str | None] = "topk"
    beside: ClassVar[str | None] = "fvu"
    kind: Literal["multi_topk"] = "multi_topk"
    weight: float = Field(default=1 / 8, ge=0)
    factor: int = Field(default=4, ge=2)

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        assert step.target is not None, "terms compare a reconstruction with its target"
        pre, k = step.pre, cast(TopK, step.dictionary.activation).k
        more = TopK(TopK.Config(k=min(self.factor * k, ops.feature_count(pre.shape[-1]))))
        recon = step.dictionary.decode(more(pre, step.dictionary.score_norm()), step.counted(step.x))
        return ops.over_tokens(ops.squared_distance(recon, step.target)) / total_variance(step.target, step.n_tokens)


class AuxK(Term):
    """Dead features learn to reconstruct what the live ones leave out.

    Normalized by the variance of what is left out, so its weight is relative to an FVU reconstruction term. Gradients
    reach W_enc, b_enc and W_dec of the selected dead features, and nothing else.
    """

    beside: ClassVar[str | None] = "fvu"
    refuses: ClassVar[Mapping[str, str]] = {
        "gated": "whether a gate opens is up to its own bias, which AuxK does not move"
    }
    kind: Literal["auxk"] = "auxk"
    weight: float = Field(default=1 / 32, ge=0)
    k_aux: int | None = Field(default=None, ge=1, description="None: the power of two nearest below d / 8")

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step; 0 while no feature is dead."""
        zero = step.recon.new_zeros(())
        if step.is_dead is None:
            return zero
        dead, is_dead = step.dead
        n_dead = ops.feature_count(len(dead))
        if n_dead == 0:
            return zero
        width = step.recon.shape[-1]
        k_aux = min(n_dead, self.k_aux or 2 ** max(0, (width // 8).bit_length() - 1))
        is_signed, are_few = step.dictionary.activation.is_signed, len(dead) <= FEW * k_aux
        if is_dead is None and not is_signed and not are_few:
            acts = step.largest_of(dead, k_aux)
        else:
            pre = step.preacts_of(dead) if is_signed else step.preacts_of(dead).relu()
            if is_dead is not None:
                pre = torch.where(is_dead, pre, 0.0)
            acts = Acts(pre, len(dead)) if k_aux == n_dead else ops.top_per_token(pre, pre.detach().abs(), k_aux)
            acts = Acts(acts.dense(), len(dead)) if are_few else acts
        error = step.error.detach()
        revived = step.decode_of(acts, dead)
        ratio = ops.over_tokens(ops.squared_distance(revived, error)) / total_variance(error, step.n_tokens)
        return torch.where(ratio.isfinite(), ratio, zero)
