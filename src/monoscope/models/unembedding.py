"""From the last residual stream to logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers
from jaxtyping import Float
from torch import Tensor, nn

from monoscope.core.errors import ModelError
from monoscope.models.family import Family

Unembedding = tuple[
    Callable[[Tensor], Tensor],
    Float[Tensor, "d vocab"],
    Float[Tensor, " vocab"] | None,
    float | None,
]


def unembedding(hf: transformers.PreTrainedModel, family: Family | None) -> Unembedding:
    """Final norm, W_U, bias and softcap of a model. Raises ModelError if it has no unembedding, or none that is known.

    logits = c * tanh((norm(x) @ W_U + bias) / c),  without the tanh where c is None
    """
    head: Any = hf.get_output_embeddings()
    if family is None or head is None:
        raise ModelError(f"{type(hf).__name__} has no unembedding to tokens that is known here")
    weight = head.weight.T
    project = _find(hf, family.project_out)
    if project is not None:
        weight = project.weight.T @ weight
    bias = head.bias if family.logit_bias is None else hf.get_buffer(family.logit_bias)[0]
    softcap = hf.config.get_text_config().final_logit_softcapping if family.softcap else None
    return _find(hf, family.norm) or nn.Identity(), weight, bias, softcap


def _find(hf: transformers.PreTrainedModel, path: str | None) -> Any:
    """The module at a path that starts at the base model, or at the head's side of it; None where there is none."""
    for root in (hf.base_model, hf):
        for name, module in root.named_modules():
            if name == path:
                return module
    return None
