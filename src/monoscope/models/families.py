"""Where the sites of each architecture are: one short table per family, and one line per model type that shares it.

A site exists in a block where the module its table names exists. What the kinds mean:

    resid_pre      what enters the block
    attn_in        what attention reads: after the norm in front of it, if there is one
    q, k, v        queries, keys, values as the projection yields them: before any norm of their own, scaling, rotation
    pattern        attention weights, [batch, head, query, key]; only computed under eager attention, and read-only
    z              the heads' outputs side by side, before the output projection
    attn_out       what attention adds to the residual stream: after a norm or scale behind it, if there is one
    resid_mid      the stream between attention and MLP
    mlp_in         what the MLP reads: after the norm in front of it, if there is one
    mlp_act        the MLP's hidden units, as its last projection reads them
    mlp_out        what the MLP adds to the stream: after a norm or scale behind it, if there is one
    resid_post     what leaves the block
    embed          token embeddings as the model adds them to the stream (scale included, positions not);
                   of an image model, patch embeddings with class token and positions
    logits         what the model returns, softcap included

The order of a block says which identities hold:

    sequential     resid_pre + attn_out == resid_mid;  resid_mid + mlp_out == resid_post
    parallel       resid_pre + attn_out + mlp_out == resid_post; there is no resid_mid
    post_norm      norm(resid_pre + attn_out) is what the MLP reads and adds to (the decoder of an encoder-decoder has
                   cross-attention in between), norm(mlp_in + mlp_out) == resid_post; no tensor would satisfy both
                   identities of resid_mid, so it does not exist
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from transformers import PreTrainedConfig

Stack = Literal["", "encoder", "decoder"]


class At(NamedTuple):
    """A module's input or output. ``path`` is inside the block; the empty path is the block itself.

    fused: the tensor holds queries, keys and values, in ``"thirds"`` of its width or ``"per_head"``; the site's kind
    says which is meant
    rows: batch and position are one axis there
    """

    path: str
    port: Literal["in", "out"]
    fused: Literal["", "thirds", "per_head"] = ""
    rows: bool = False


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


BLOCK = {"resid_pre": At("", "in"), "resid_post": At("", "out")}


def _attention(path: str, q: str, k: str, v: str, out: str) -> dict[str, At]:
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


def _mlp(path: str, last: str) -> dict[str, At]:
    """Sites of an MLP module, whose output the stream receives as it is."""
    return {"mlp_in": At(path, "in"), "mlp_act": At(f"{path}.{last}", "in"), "mlp_out": At(path, "out")}


LLAMA = Family(
    BLOCK
    | _attention("self_attn", "q_proj", "k_proj", "v_proj", "o_proj")
    | {"resid_mid": At("post_attention_layernorm", "in")}
    | _mlp("mlp", "down_proj"),
    rotary="rotary_emb",
)

GEMMA2 = replace(
    LLAMA,
    sites={
        **LLAMA.sites,
        "attn_out": At("post_attention_layernorm", "out"),
        "resid_mid": At("pre_feedforward_layernorm", "in"),
        "mlp_out": At("post_feedforward_layernorm", "out"),
    },
    softcap=True,
)

GEMMA3_WITH_IMAGES = replace(
    GEMMA2,
    blocks={"": "language_model.layers"},
    embed={"": "language_model.embed_tokens"},
    norm="language_model.norm",
    rotary="language_model.rotary_emb",
    softcap=False,
)

PHI = Family(
    BLOCK | _attention("self_attn", "q_proj", "k_proj", "v_proj", "dense") | _mlp("mlp", "fc2"),
    order="parallel",
    norm="final_layernorm",
    rotary="rotary_emb",
)

GPT2 = Family(
    BLOCK
    | {
        "attn_in": At("attn", "in"),
        "q": At("attn.c_attn", "out", "thirds"),
        "k": At("attn.c_attn", "out", "thirds"),
        "v": At("attn.c_attn", "out", "thirds"),
        "pattern": At("attn", "out"),
        "z": At("attn.c_proj", "in"),
        "attn_out": At("attn", "out"),
        "resid_mid": At("ln_2", "in"),
    }
    | _mlp("mlp", "c_proj"),
    blocks={"": "h"},
    embed={"": "wte"},
    norm="ln_f",
    positions=("wpe",),
)

GPT_NEOX = Family(
    BLOCK
    | {
        "attn_in": At("attention", "in"),
        "q": At("attention.query_key_value", "out", "per_head"),
        "k": At("attention.query_key_value", "out", "per_head"),
        "v": At("attention.query_key_value", "out", "per_head"),
        "pattern": At("attention", "out"),
        "z": At("attention.dense", "in"),
        "attn_out": At("attention", "out"),
    }
    | _mlp("mlp", "dense_4h_to_h"),
    order="parallel",
    embed={"": "embed_in"},
    norm="final_layer_norm",
    rotary="rotary_emb",
)

GPT_NEOX_SEQUENTIAL = replace(
    GPT_NEOX, sites={**GPT_NEOX.sites, "resid_mid": At("post_attention_layernorm", "in")}, order="sequential"
)

OPT_POST_NORM = Family(
    BLOCK
    | _attention("self_attn", "q_proj", "k_proj", "v_proj", "out_proj")
    | {
        "mlp_in": At("fc1", "in", rows=True),
        "mlp_act": At("fc2", "in", rows=True),
        "mlp_out": At("fc2", "out", rows=True),
    },
    order="post_norm",
    blocks={"": "decoder.layers"},
    embed={"": "decoder.embed_tokens"},
    norm="decoder.final_layer_norm",
    positions=("decoder.embed_positions",),
    project_in="decoder.project_in",
    project_out="decoder.project_out",
)

OPT = replace(
    OPT_POST_NORM,
    sites={**OPT_POST_NORM.sites, "resid_mid": At("final_layer_norm", "in", rows=True)},
    order="sequential",
)

BERT = Family(
    BLOCK
    | {
        "attn_in": At("attention.self", "in"),
        "q": At("attention.self.query", "out"),
        "k": At("attention.self.key", "out"),
        "v": At("attention.self.value", "out"),
        "pattern": At("attention.self", "out"),
        "z": At("attention.output.dense", "in"),
        "attn_out": At("attention.output.dense", "out"),
        "mlp_in": At("intermediate", "in"),
        "mlp_act": At("output.dense", "in"),
        "mlp_out": At("output.dense", "out"),
    },
    order="post_norm",
    blocks={"": "encoder.layer"},
    embed={"": "embeddings.word_embeddings"},
    norm="cls.predictions.transform",
    positions=("embeddings.position_embeddings",),
)

BART = Family(
    BLOCK
    | _attention("self_attn", "q_proj", "k_proj", "v_proj", "out_proj")
    | {"mlp_in": At("fc1", "in"), "mlp_act": At("fc2", "in"), "mlp_out": At("fc2", "out")},
    order="post_norm",
    blocks={"encoder": "encoder.layers", "decoder": "decoder.layers"},
    embed={"encoder": "encoder.embed_tokens", "decoder": "decoder.embed_tokens"},
    norm=None,
    positions=("encoder.embed_positions", "decoder.embed_positions"),
    takes_positions=False,
    logit_bias="final_logits_bias",
)

VIT = Family(
    BLOCK
    | _attention("attention", "q_proj", "k_proj", "v_proj", "o_proj")
    | {"resid_mid": At("layernorm_after", "in")}
    | _mlp("mlp", "fc2"),
    embed={"": "embeddings"},
    norm="layernorm",
    classifier="classifier",
)

DINOV2 = Family(
    BLOCK
    | _attention("attention", "q_proj", "k_proj", "v_proj", "o_proj")
    | {"attn_out": At("layer_scale1", "out"), "resid_mid": At("norm2", "in")}
    | _mlp("mlp", "fc2")
    | {"mlp_out": At("layer_scale2", "out")},
    blocks={"": "encoder.layer"},
    embed={"": "embeddings"},
    norm="layernorm",
    classifier="classifier",
)

DINOV2_GATED = replace(DINOV2, sites={**DINOV2.sites, "mlp_act": At("mlp.down_proj", "in")})

CLIP_VISION = Family(
    BLOCK
    | _attention("self_attn", "q_proj", "k_proj", "v_proj", "out_proj")
    | {"resid_mid": At("layer_norm2", "in")}
    | _mlp("mlp", "fc2"),
    blocks={"": "encoder.layers"},
    embed={"": "embeddings"},
    norm="post_layernorm",
)

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "qwen3_moe": LLAMA,
    "smollm3": LLAMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2,
    "gemma3": GEMMA3_WITH_IMAGES,
    "phi": PHI,
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
    "opt": OPT,
    "bert": BERT,
    "bart": BART,
    "vit": VIT,
    "dinov2": DINOV2,
    "clip_vision_model": CLIP_VISION,
}


def family_of(config: PreTrainedConfig) -> Family | None:
    """The family a model's config belongs to; None for an architecture without a table."""
    match config.model_type:
        case "gpt_neox" if not config.use_parallel_residual:
            return GPT_NEOX_SEQUENTIAL
        case "opt" if not config.do_layer_norm_before:
            return OPT_POST_NORM
        case "dinov2" if config.use_swiglu_ffn:
            return DINOV2_GATED
        case known:
            return FAMILIES.get(known)
