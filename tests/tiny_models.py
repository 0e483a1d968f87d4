"""Tiny models of every family, whose every weight is random."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from monoscope.models import LanguageModel

COMMON = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
GROUPED = COMMON | {"num_key_value_heads": 2}
WINDOWED = GROUPED | {"head_dim": 8, "sliding_window": 6}
SLIDING = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
BART = {
    "vocab_size": 100,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "eos_token_id": None,
    "forced_eos_token_id": None,
    "decoder_start_token_id": 2,
}
OPT = {"vocab_size": 100, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
OPT |= {"max_position_embeddings": 64, "word_embed_proj_dim": 32, "eos_token_id": None}
IMAGE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
IMAGE |= {"image_size": 16, "patch_size": 4}


def gemma3_with_images() -> hf.PreTrainedModel:
    text = hf.Gemma3TextConfig(**WINDOWED | SLIDING, final_logit_softcapping=5.0)
    return hf.Gemma3ForConditionalGeneration(
        hf.Gemma3Config(text_config=text.to_dict(), vision_config=IMAGE, mm_tokens_per_image=4, image_token_id=99)
    )


MODELS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "gpt2": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=100, n_embd=32, n_layer=3, n_head=4, n_positions=64, eos_token_id=None)
    ),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**COMMON)),
    "gpt_neox_sequential": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**COMMON, use_parallel_residual=False)),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**WINDOWED)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**GROUPED)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**GROUPED, head_dim=16)),
    "qwen3_moe": lambda: hf.Qwen3MoeForCausalLM(
        hf.Qwen3MoeConfig(
            **GROUPED, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, mlp_only_layers=[1]
        )
    ),
    "smollm3": lambda: hf.SmolLM3ForCausalLM(hf.SmolLM3Config(**GROUPED)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**WINDOWED, **SLIDING, final_logit_softcapping=5.0)),
    "gemma3_text": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(**WINDOWED, **SLIDING, final_logit_softcapping=5.0)
    ),
    "gemma3": gemma3_with_images,
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**GROUPED)),
    "olmo3": lambda: hf.Olmo3ForCausalLM(hf.Olmo3Config(**GROUPED, sliding_window=6, **SLIDING)),
    "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**GROUPED, qk_layernorm=True)),
    "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(**OPT)),
    "opt_post_norm": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(**OPT | {"word_embed_proj_dim": 16}, do_layer_norm_before=False)
    ),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**COMMON)),
    "bart": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**BART, scale_embedding=True)),
    "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**IMAGE, num_labels=10)),
    "dinov2": lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**IMAGE, num_labels=10)),
    "dinov2_gated": lambda: hf.Dinov2Model(hf.Dinov2Config(**IMAGE, use_swiglu_ffn=True)),
    "clip_vision_model": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**IMAGE)),
}


@functools.cache
def model(name: str) -> LanguageModel:
    """A tiny model with eager attention; norms, biases and scales random too, so that no identity holds by accident."""
    generator = torch.Generator().manual_seed(1)
    made = MODELS[name]()
    with torch.no_grad():
        for key, parameter in (*made.named_parameters(), *made.named_buffers()):
            if parameter.is_floating_point() and "inv_freq" not in key and "embed_scale" not in key:
                center = 1.0 if "norm" in key.lower() and key.endswith("weight") else 0.0
                parameter.copy_(center + 0.3 * torch.randn(parameter.shape, generator=generator))
    made.set_attn_implementation("eager")
    return LanguageModel(made, name=name)


def some_tokens(lm: LanguageModel, batch: int = 2, pos: int = 9) -> Tensor:
    """Random tokens, or random images for a model that reads those."""
    if lm.hf.main_input_name == "pixel_values":
        return torch.randn(batch, 3, 16, 16)
    return torch.randint(3, 90, (batch, pos))


def with_random_weights(made: hf.PreTrainedModel) -> LanguageModel:
    """A model of any config, made as the tiny ones are."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    made.set_attn_implementation("eager")
    return LanguageModel(made)


ROPE = {"rope_theta": 100.0, "original_max_position_embeddings": 16}
SCALED_ROPE: dict[str, dict[str, Any]] = {
    "linear": ROPE | {"rope_type": "linear", "factor": 4.0},
    "llama3": ROPE | {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": ROPE | {"rope_type": "yarn", "factor": 4.0},
}


@functools.cache
def scaled(kind: str) -> LanguageModel:
    """A Llama whose rotary positions were scaled for longer texts."""
    return with_random_weights(hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED, rope_parameters=SCALED_ROPE[kind])))
