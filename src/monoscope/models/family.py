"""What a table of an architecture's sites says.

A site exists in a block where the module its table names exists. What the kinds mean:

    resid_pre        what enters the block
    attn_normalized  what the norm in front of attention makes of the stream before its gain and bias; read-only
    attn_in          what attention reads: after the norm in front of it, if there is one
    q, k, v          queries, keys, values as the projection yields them: before norms of their own, scaling, rotation
    pattern          attention weights, [batch, head, query, key]; only computed under eager attention, and read-only
    z                the heads' outputs side by side, before the output projection
    attn_out         what attention adds to the residual stream: after a norm or scale behind it, if there is one
    resid_mid        the stream between attention and MLP
    mlp_normalized   what the norm in front of the MLP makes of the stream before its gain and bias; read-only
    mlp_in           what the MLP reads: after the norm in front of it, if there is one
    mlp_act          the MLP's hidden units, as its last projection reads them
    mlp_out          what the MLP adds to the stream: after a norm or scale behind it, if there is one
    resid_post       what leaves the block
    embed            token embeddings as the model adds them to the stream (scale included, positions not);
                     of an image model, patch embeddings with class token and positions
    logits           what the model returns, softcap included

The order of a block says which identities hold:

    sequential       resid_pre + attn_out == resid_mid;  resid_mid + mlp_out == resid_post
    parallel         resid_pre + attn_out + mlp_out == resid_post; there is no resid_mid
    post_norm        norm(resid_pre + attn_out) is what the MLP reads and adds to (the decoder of an encoder-decoder has
                     cross-attention in between), norm(mlp_in + mlp_out) == resid_post; no tensor would satisfy both
                     identities of resid_mid, so it does not exist
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Stack = Literal["", "encoder", "decoder"]


class At(NamedTuple):
    """A module's input or output. ``path`` is inside the block; the empty path is the block itself.

    fused: the tensor holds queries, keys and values, in ``"thirds"`` of its width or ``"per_head"``; the site's kind
    says which is meant
    rows: batch and position are one axis there
    normalized: the module is a norm, and the site is its input as it is before gain and bias
    """

    path: str
    port: Literal["in", "out"]
    fused: Literal["", "thirds", "per_head"] = ""
    rows: bool = False
    normalized: bool = False


@dataclass(frozen=True)
class Family:
    """One architecture. Paths start at the base model (``hf.base_model``); ``sites`` paths start at the block.

    blocks, embed: per stack (``""``, or ``"encoder"`` and ``"decoder"``)
    norm: what stands between the last block and the unembedding; None if nothing does
    positions: learned position embeddings; they end at the context length
    takes_positions: whether the model accepts position ids
    rotary: the module that holds the frequencies of rotary positions, in models that have them
    project_in: a projection of the token embeddings, whose output ``embed`` then is, in models that have one
    project_out: a projection between final norm and unembedding, in models that have one
    logit_bias: a buffer added to the logits
    softcap: whether the head applies the config's ``final_logit_softcapping``
    classifier: the head that yields logits in a model without an unembedding
    base: where the base model is in the model with its head
    lens: names of TransformerLens within a block, with the tensor they mean, where that is not the site of that name
    also: further modules, as ``path:in`` or ``path:out``, that have a site's tensor
    centers: whether norms take the mean away, so that TransformerLens takes it from what is written to the stream
    value_bias: whether values have a bias, which TransformerLens moves behind the output projection
    """

    sites: Mapping[str, At]
    order: Literal["sequential", "parallel", "post_norm"] = "sequential"
    blocks: Mapping[Stack, str] = field(default_factory=lambda: {"": "layers"})
    embed: Mapping[Stack, str] = field(default_factory=lambda: {"": "embed_tokens"})
    project_in: str | None = None
    norm: str | None = "norm"
    positions: tuple[str, ...] = ()
    takes_positions: bool = True
    rotary: str | None = None
    project_out: str | None = None
    logit_bias: str | None = None
    softcap: bool = False
    classifier: str | None = None
    base: str = "model"
    lens: Mapping[str, At] = field(default_factory=dict)
    also: Mapping[str, str] = field(default_factory=dict)
    centers: bool = False
    value_bias: bool = False


BLOCK = {"resid_pre": At("", "in"), "resid_post": At("", "out")}


def attention(path: str, q: str, k: str, v: str, out: str) -> dict[str, At]:
    """Sites of an attention module with separate projections, whose output the stream receives as it is."""
    return {
        "attn_in": At(path, "in"),
        "q": At(f"{path}.{q}", "out"),
        "k": At(f"{path}.{k}", "out"),
        "v": At(f"{path}.{v}", "out"),
        "pattern": At(path, "out"),
        "z": At(f"{path}.{out}", "in"),
        "attn_out": At(path, "out"),
    }


def mlp(path: str, last: str) -> dict[str, At]:
    """Sites of an MLP module, whose output the stream receives as it is."""
    return {"mlp_in": At(path, "in"), "mlp_act": At(f"{path}.{last}", "in"), "mlp_out": At(path, "out")}


def normalized(attention: str, mlp: str, *, rows: bool = False) -> dict[str, At]:
    """Sites before the gain of the norms in front of attention and MLP."""
    return {
        "attn_normalized": At(attention, "in", rows=rows, normalized=True),
        "mlp_normalized": At(mlp, "in", rows=rows, normalized=True),
    }


GATED_MLP = {"mlp.hook_pre": At("mlp.gate_proj", "out"), "mlp.hook_pre_linear": At("mlp.up_proj", "out")}
