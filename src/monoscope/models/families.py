"""Where the sites of each architecture are: one short table per family, and one line per model type that shares it."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedConfig

from monoscope.models.family import BLOCK, GATED_MLP, At, Family, attention, mlp, normalized

LLAMA = Family(
    BLOCK
    | normalized("input_layernorm", "post_attention_layernorm")
    | attention("self_attn", "q_proj", "k_proj", "v_proj", "o_proj")
    | {"resid_mid": At("post_attention_layernorm", "in")}
    | mlp("mlp", "down_proj"),
    rotary="rotary_emb",
    lens=GATED_MLP,
    also={
        "input_layernorm:in": "resid_pre",
        "input_layernorm:out": "attn_in",
        "self_attn.o_proj:out": "attn_out",
        "post_attention_layernorm:out": "mlp_in",
        "mlp.down_proj:out": "mlp_out",
    },
)

QWEN2 = replace(LLAMA, value_bias=True)

GEMMA2 = replace(
    LLAMA,
    sites={
        **LLAMA.sites,
        **normalized("input_layernorm", "pre_feedforward_layernorm"),
        "attn_out": At("post_attention_layernorm", "out"),
        "resid_mid": At("pre_feedforward_layernorm", "in"),
        "mlp_out": At("post_feedforward_layernorm", "out"),
    },
    softcap=True,
    lens={**GATED_MLP, "mlp.hook_out": At("mlp", "out")},
    also={
        "input_layernorm:in": "resid_pre",
        "input_layernorm:out": "attn_in",
        "pre_feedforward_layernorm:out": "mlp_in",
    },
)

GEMMA3_WITH_IMAGES = replace(
    GEMMA2,
    blocks={"": "language_model.layers"},
    embed={"": "language_model.embed_tokens"},
    norm="language_model.norm",
    rotary="language_model.rotary_emb",
    softcap=False,
)

# Norms behind attention and MLP, and none in front of them: each reads the stream as it is. TransformerLens reads what
# they yield before the norm.
OLMO2 = Family(
    BLOCK
    | attention("self_attn", "q_proj", "k_proj", "v_proj", "o_proj")
    | {"attn_out": At("post_attention_layernorm", "out"), "resid_mid": At("mlp", "in")}
    | mlp("mlp", "down_proj")
    | {"mlp_out": At("post_feedforward_layernorm", "out")},
    rotary="rotary_emb",
    lens={
        **GATED_MLP,
        "hook_attn_out": At("self_attn", "out"),
        "hook_mlp_out": At("mlp", "out"),
        "mlp.hook_out": At("mlp", "out"),
    },
)

PHI = Family(
    BLOCK
    | normalized("input_layernorm", "input_layernorm")
    | attention("self_attn", "q_proj", "k_proj", "v_proj", "dense")
    | mlp("mlp", "fc2"),
    order="parallel",
    norm="final_layernorm",
    rotary="rotary_emb",
    lens={"mlp.hook_pre": At("mlp.fc1", "out")},
    also={
        "input_layernorm:in": "resid_pre",
        "input_layernorm:out": "attn_in",
        "self_attn.dense:out": "attn_out",
        "mlp.fc2:out": "mlp_out",
    },
    centers=True,
    value_bias=True,
)

GPT2 = Family(
    BLOCK
    | normalized("ln_1", "ln_2")
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
    | mlp("mlp", "c_proj"),
    blocks={"": "h"},
    embed={"": "wte"},
    norm="ln_f",
    positions=("wpe",),
    base="transformer",
    lens={"mlp.hook_pre": At("mlp.c_fc", "out")},
    also={
        "ln_1:in": "resid_pre",
        "ln_1:out": "attn_in",
        "attn.c_proj:out": "attn_out",
        "ln_2:out": "mlp_in",
        "mlp.c_proj:out": "mlp_out",
    },
    centers=True,
    value_bias=True,
)

GPT_NEOX = Family(
    BLOCK
    | normalized("input_layernorm", "post_attention_layernorm")
    | {
        "attn_in": At("attention", "in"),
        "q": At("attention.query_key_value", "out", "per_head"),
        "k": At("attention.query_key_value", "out", "per_head"),
        "v": At("attention.query_key_value", "out", "per_head"),
        "pattern": At("attention", "out"),
        "z": At("attention.dense", "in"),
        "attn_out": At("attention", "out"),
    }
    | mlp("mlp", "dense_4h_to_h"),
    order="parallel",
    embed={"": "embed_in"},
    norm="final_layer_norm",
    rotary="rotary_emb",
    base="gpt_neox",
    lens={"mlp.hook_pre": At("mlp.dense_h_to_4h", "out")},
    also={
        "input_layernorm:in": "resid_pre",
        "input_layernorm:out": "attn_in",
        "attention.dense:out": "attn_out",
        "post_attention_layernorm:out": "mlp_in",
        "mlp.dense_4h_to_h:out": "mlp_out",
    },
    centers=True,
    value_bias=True,
)

GPT_NEOX_SEQUENTIAL = replace(
    GPT_NEOX, sites={**GPT_NEOX.sites, "resid_mid": At("post_attention_layernorm", "in")}, order="sequential"
)

OPT_POST_NORM = Family(
    BLOCK
    | attention("self_attn", "q_proj", "k_proj", "v_proj", "out_proj")
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
    also={"self_attn.out_proj:out": "attn_out"},
    centers=True,
    value_bias=True,
)

OPT = replace(
    OPT_POST_NORM,
    sites={
        **OPT_POST_NORM.sites,
        "attn_normalized": At("self_attn_layer_norm", "in", normalized=True),
        "resid_mid": At("final_layer_norm", "in", rows=True),
        "mlp_normalized": At("final_layer_norm", "in", rows=True, normalized=True),
    },
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
    base="bert",
    lens={
        "hook_resid_mid": At("attention.output.LayerNorm", "in"),
        "hook_mlp_in": At("attention.output.LayerNorm", "in"),
        "mlp.hook_pre": At("intermediate.dense", "out"),
        "hook_resid_post": At("output.LayerNorm", "in"),
        "hook_normalized_resid_post": BLOCK["resid_post"],
    },
    also={"attention.output.LayerNorm:out": "mlp_in", "output.LayerNorm:out": "resid_post"},
    centers=True,
    value_bias=True,
)

BART = Family(
    BLOCK
    | attention("self_attn", "q_proj", "k_proj", "v_proj", "out_proj")
    | {"mlp_in": At("fc1", "in"), "mlp_act": At("fc2", "in"), "mlp_out": At("fc2", "out")},
    order="post_norm",
    blocks={"encoder": "encoder.layers", "decoder": "decoder.layers"},
    embed={"encoder": "encoder.embed_tokens", "decoder": "decoder.embed_tokens"},
    norm=None,
    positions=("encoder.embed_positions", "decoder.embed_positions"),
    takes_positions=False,
    logit_bias="final_logits_bias",
    centers=True,
    value_bias=True,
)

VIT = Family(
    BLOCK
    | normalized("layernorm_before", "layernorm_after")
    | attention("attention", "q_proj", "k_proj", "v_proj", "o_proj")
    | {"resid_mid": At("layernorm_after", "in")}
    | mlp("mlp", "fc2"),
    embed={"": "embeddings"},
    norm="layernorm",
    classifier="classifier",
    base="vit",
    centers=True,
    value_bias=True,
)

DINOV2 = Family(
    BLOCK
    | normalized("norm1", "norm2")
    | attention("attention", "q_proj", "k_proj", "v_proj", "o_proj")
    | {"attn_out": At("layer_scale1", "out"), "resid_mid": At("norm2", "in")}
    | mlp("mlp", "fc2")
    | {"mlp_out": At("layer_scale2", "out")},
    blocks={"": "encoder.layer"},
    embed={"": "embeddings"},
    norm="layernorm",
    classifier="classifier",
    base="dinov2",
    centers=True,
    value_bias=True,
)

DINOV2_GATED = replace(DINOV2, sites={**DINOV2.sites, "mlp_act": At("mlp.down_proj", "in")})

CLIP_VISION = Family(
    BLOCK
    | normalized("layer_norm1", "layer_norm2")
    | attention("self_attn", "q_proj", "k_proj", "v_proj", "out_proj")
    | {"resid_mid": At("layer_norm2", "in")}
    | mlp("mlp", "fc2"),
    blocks={"": "encoder.layers"},
    embed={"": "embeddings"},
    norm="post_layernorm",
    base="vision_model",
    centers=True,
    value_bias=True,
)

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": QWEN2,
    "qwen3": LLAMA,
    "qwen3_moe": LLAMA,
    "smollm3": LLAMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2,
    "gemma3": GEMMA3_WITH_IMAGES,
    "olmo2": OLMO2,
    "olmo3": OLMO2,
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
