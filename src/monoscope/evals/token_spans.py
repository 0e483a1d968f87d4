"""Character spans of tokens, rebuilt from the tokens themselves where a tokenizer's own offsets are not at hand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache

import numpy as np
from jaxtyping import Int

from monoscope.core.errors import DataError


def byte_level_spans(tokens: Sequence[str], text: str, specials: Collection[str] = ()) -> Int[np.ndarray, "token 2"]:
    """First character and the one after the last, of every token of a byte-level BPE (``convert_ids_to_tokens``).

    A token that begins or ends within a character covers all of it, so neighbors may share one. ``specials`` stand for
    no text: their spans are empty, where they stand. Raises DataError where the tokens do not spell the text.
    """
    alphabet, raw = _alphabet(), text.encode()
    lengths, at = [], 0
    for number, token in enumerate(tokens):
        piece = b"" if token in specials else b"".join(alphabet.get(c) or c.encode() for c in token)
        if raw[at : at + len(piece)] != piece:
            expected = raw[at : at + 20].decode(errors="replace")
            raise DataError(f"token {number} is {token!r} where the text reads {expected!r}")
        lengths.append(len(piece))
        at += len(piece)
    if at != len(raw):
        raise DataError(f"the tokens end where the text goes on: {raw[at : at + 20].decode(errors='replace')!r}")
    ends = np.cumsum(lengths, dtype=np.int64)
    starts = ends - np.array(lengths, dtype=np.int64)
    leads = (np.frombuffer(raw, np.uint8) & 0xC0) != 0x80  # bytes that begin a character
    characters_before = np.concatenate([[0], np.cumsum(leads, dtype=np.int64)])
    # A character counts as begun at its first byte: one before the byte at ``start`` unless that byte begins another.
    begun = np.append(leads, True)[starts]
    return np.stack([characters_before[starts] - ~begun, characters_before[ends]], axis=1)


@cache
def _alphabet() -> dict[str, bytes]:
    """The character that stands for each byte: itself if printable, else the next one free from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in printable]
    characters = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
    return {character: bytes([byte]) for character, byte in characters.items()}
