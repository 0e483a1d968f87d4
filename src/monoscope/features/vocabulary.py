"""Tokens as bytes and text, so that a bundle can be read without its tokenizer.

Tokens that are whole UTF-8 keep their text, control characters included; a token that is part of a character shows its
bytes, as in ``\\xe2\\x86``. Three alphabets are told apart by what the tokenizer's decoder says it does: byte-level BPE
(GPT-2, Llama 3, Qwen), SentencePiece with byte fallback (Llama 2, Gemma), and word pieces (BERT); for any other the
tokenizer's own ``decode`` of a single token is taken.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every token id's bytes and text, in order of id, and whether it is special."""

    bytes: tuple[bytes, ...]
    text: tuple[str, ...]
    special: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.bytes)

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerBase | None, n: int) -> Vocabulary:
        """The vocabulary of a tokenizer; of ``n`` tokens at least. Without a tokenizer, tokens are their numbers."""
        if tokenizer is None:
            numbers = tuple(f"<{i}>" for i in range(n))
            return Vocabulary(tuple(number.encode() for number in numbers), numbers, (False,) * n)
        names: list[str | None] = [None] * max(n, len(tokenizer))
        for name, i in tokenizer.get_vocab().items():
            names[i] = name
        special = set(tokenizer.all_special_ids)
        # Added tokens that are not special are text too, but stand outside the alphabet.
        plain = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items()}
        alphabet = _alphabet(tokenizer)
        tokens = []
        for i, name in enumerate(names):
            if name is None:
                tokens.append(f"<{i}>".encode())
            elif i in plain or i in special:
                tokens.append(plain.get(i, name).encode())
            else:
                tokens.append(_bytes(name, alphabet, tokenizer, i))
        return Vocabulary(tuple(tokens), tuple(map(text_of, tokens)), tuple(i in special for i in range(len(names))))


def text_of(token: bytes) -> str:
    """Text of a token's bytes; bytes that are not whole UTF-8 as escapes."""
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in token)


def _alphabet(tokenizer: PreTrainedTokenizerBase) -> str:
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return "unknown"
    decoder = json.dumps(json.loads(backend.to_str()).get("decoder"), ensure_ascii=False)
    for kind, sign in (("byte_level", "ByteLevel"), ("word_piece", "WordPiece"), ("sentence_piece", "\u2581")):
        if sign in decoder:
            return kind
    return "unknown"


def _bytes(name: str, alphabet: str, tokenizer: PreTrainedTokenizerBase, token: int) -> bytes:
    if alphabet == "byte_level":
        table = _byte_of_character()
        if all(character in table for character in name):
            return bytes(table[character] for character in name)
    elif alphabet == "word_piece":
        return (name[2:] if name.startswith("##") else f" {name}").encode()
    elif alphabet == "sentence_piece":
        if found := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", name):
            return bytes([int(found[1], 16)])
        return name.replace("\u2581", " ").encode()
    decoded = tokenizer.decode([token])
    assert isinstance(decoded, str), "one token decodes to one text"
    return decoded.encode()


@cache
def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable character: itself where it is one, else the next from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return table | {chr(0x100 + i): byte for i, byte in enumerate(others)}
