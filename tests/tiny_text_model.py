"""A language model small enough for any test: two layers of a random Llama, and a byte-level tokenizer."""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from monoscope.models import LanguageModel

SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}  # tokens 0, 1 and 2
TEXT = [f"the {a} {b} sat on the {c}.\n" for a in ("red", "old") for b in ("cat", "dog") for c in ("mat", "rug", "cup")]

CHAT_TEMPLATE = "{% for m in messages %}<bos>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}"


def chats(n: int) -> list[list[dict[str, str]]]:
    """Conversations of two messages, the answers of many lengths."""
    answers = ("".join(TEXT)[i : i + 4 + 37 * i % 110] for i in range(n))
    return [[{"role": "user", "content": "a cat"}, {"role": "assistant", "content": answer}] for answer in answers]


@cache
def byte_pairs() -> Tokenizer:
    """Byte-level BPE of fewer than 300 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(SPECIAL.values()), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def tiny_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """A tokenizer with the special tokens named; with all three if none is."""
    return PreTrainedTokenizerFast(tokenizer_object=byte_pairs(), **(special or SPECIAL))


@cache
def tiny_lm(seed: int = 0) -> LanguageModel:
    """Two layers, d 16, 64 positions; the weights are the same every time."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LanguageModel(LlamaForCausalLM(config), tiny_tokenizer(), "tiny")
