"""Documents as token ids, with the special tokens of a policy between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import transformers

from monoscope.core.errors import ConfigError, DataError
from monoscope.core.io import fingerprint
from monoscope.core.progress import progress

Bos = Literal["window", "document", "none"]

BATCH_CHARACTERS = 2**21  # documents tokenized at once: enough to keep every thread of the tokenizer busy
BATCH_DOCUMENTS = 1024


def fingerprint_tokenizer(tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    """SHA-256 of the vocabulary."""
    return fingerprint(tokenizer.get_vocab())


@dataclass(frozen=True)
class SpecialIds:
    """Token ids: what opens a text (-1: nothing does), what stands between documents, what fills up."""

    bos: int
    separator: int | None
    pad: int


def special_ids(tokenizer: transformers.PreTrainedTokenizerBase, policy: Bos) -> SpecialIds:
    """The tokens a tokenizer has for a policy. Raises ConfigError for a policy it cannot follow."""

    def first(*names: str) -> int | None:
        ids = (getattr(tokenizer, f"{name}_token_id", None) for name in names)
        return next((token for token in ids if token is not None), None)

    bos = first("bos", "cls")
    if bos is None and policy != "none":
        raise ConfigError(f'this tokenizer has no beginning-of-sequence token; write bos = "none", found {policy!r}')
    separator = bos if policy == "document" else first("eos", "sep", "bos")
    pad = first("pad", "eos", "bos")
    return SpecialIds(bos=-1 if bos is None else bos, separator=separator, pad=0 if pad is None else pad)


def read_stream(
    documents: Iterable[str],
    tokenizer: transformers.PreTrainedTokenizerBase,
    ids: SpecialIds,
    bos: Bos,
    wanted: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """All tokens in a row, at most ``wanted``, and the place where each document starts."""
    pieces: list[np.ndarray] = []
    starts: list[int] = []
    length = 0
    with progress("tokenize", wanted) as bar:
        for batch in _batches(documents):
            before = length
            for encoded in _encode(batch, tokenizer):
                if ids.separator is not None and encoded and (bos == "document" or length):
                    encoded = [ids.separator, *encoded]
                starts.append(length)
                pieces.append(np.array(encoded, dtype=np.int32))
                length += len(encoded)
            bar.advance(length - before)
            if wanted is not None and length >= wanted:
                break
    if not length:
        raise DataError(f"there is no text: not one token in {len(starts)} documents")
    return np.concatenate(pieces)[:wanted], np.array(starts)


def read_sequences(
    documents: Iterable[str], tokenizer: transformers.PreTrainedTokenizerBase, context: int, wanted: int | None
) -> tuple[list[np.ndarray], list[int], int]:
    """At most ``context`` tokens of each document, the documents' numbers, and how many tokens were cut off."""
    rows: list[np.ndarray] = []
    numbers: list[int] = []
    length = cut = 0
    every = (encoded for batch in _batches(documents) for encoded in _encode(batch, tokenizer))
    with progress("tokenize", wanted) as bar:
        for number, encoded in enumerate(every):
            if not encoded:
                continue
            rows.append(np.array(encoded[:context], dtype=np.int32))
            numbers.append(number)
            length, cut = length + len(rows[-1]), cut + max(0, len(encoded) - context)
            bar.advance(len(rows[-1]))
            if wanted is not None and length >= wanted:
                break
    if not rows:
        raise DataError("there is no text: not one token in any document")
    return rows, numbers, cut


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if characters >= BATCH_CHARACTERS or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode(batch: list[str], tokenizer: transformers.PreTrainedTokenizerBase) -> Iterable[list[int]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and backend.truncation is None and backend.padding is None:
        return (encoding.ids for encoding in backend.encode_batch_fast(batch, add_special_tokens=False))
    # Some tokenizer files ask for truncation or padding, which would silently lose text or add to it.
    return tokenizer(batch, add_special_tokens=False, truncation=False, padding=False, verbose=False)["input_ids"]
