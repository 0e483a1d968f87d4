"""TokenWindows: text as token windows of one length, packed without waste.

Documents follow each other in one stream, which is cut into windows; only the end of the last one is padding. Special
tokens are added by policy:

    "window"     each window opens with BOS; between two documents stands EOS, or BOS where there is no EOS
    "document"   BOS before each document and nowhere else
    "none"       only the EOS between two documents, for tokenizers that have one
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from monoscope.core.errors import ConfigError, DataError, MismatchError
from monoscope.core.io import (
    fingerprint,
    fingerprint_tensors,
    output_directory,
    read_manifest,
    read_tensors,
    write_manifest,
    write_tensors,
)
from monoscope.core.progress import progress

Bos = Literal["window", "document", "none"]

SCHEMA, VERSION = "monoscope.tokens", 1
BATCH_CHARACTERS = 2**21  # documents tokenized at once: enough to keep every thread of the tokenizer busy
BATCH_DOCUMENTS = 1024


@dataclass(frozen=True, eq=False)
class TokenWindows:
    """Windows of ``context`` tokens, addressed by their number.

    tokens: ``[n, context]`` token ids
    mask: ``[n, context]``, False on padding
    documents: ``[n]`` number of the document each window begins in, counting from 0 in the order they were read
    info: where they come from, as JSON
    """

    tokens: Int[Tensor, "n context"]
    mask: Bool[Tensor, "n context"]
    documents: Int[Tensor, " n"]
    info: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_text(
        cls,
        documents: Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        context: int = 256,
        bos: Bos = "window",
        tokens: int | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> TokenWindows:
        """Documents, tokenized on all threads and packed; reading stops once there are ``tokens`` tokens in windows.

        Raises DataError for text without a token, ConfigError for a BOS policy that the tokenizer cannot follow.
        """
        ids = _special_ids(tokenizer, bos)
        opening = [] if bos != "window" else [ids.bos]
        body = context - len(opening)
        if body < 1:
            raise ConfigError(f"context counts the tokens of a window and must be at least 2, found {context}")
        wanted = None if tokens is None else math.ceil(tokens / context) * body
        stream, starts = _read_stream(documents, tokenizer, ids, bos, wanted)
        n = math.ceil(len(stream) / body)
        out = np.full((n, context), ids.pad, dtype=np.int32)
        out[:, : len(opening)] = opening
        rest = np.full(n * body, ids.pad, dtype=np.int32)
        rest[: len(stream)] = stream
        out[:, len(opening) :] = rest.reshape(n, body)
        mask = np.ones((n, context), dtype=bool)
        mask[-1, len(opening) + len(stream) - (n - 1) * body :] = False
        begins = np.searchsorted(starts, np.arange(n) * body, side="right") - 1
        made = {"bos": bos, "context": context, "tokenizer": fingerprint_tokenizer(tokenizer)}
        return cls(
            tokens=torch.from_numpy(out),
            mask=torch.from_numpy(mask),
            documents=torch.from_numpy(begins.astype(np.int32)),
            info={**(info or {}), **made},
        )

    @classmethod
    def from_tokens(
        cls, tokens: Int[Tensor, "n context"], mask: Bool[Tensor, "n context"] | None = None
    ) -> TokenWindows:
        """Windows of given token ids, each a document of its own."""
        if 0 in tokens.shape:
            raise DataError(f"token windows are [n, context] and not empty, found shape {list(tokens.shape)}")
        mask = torch.ones(tokens.shape, dtype=torch.bool) if mask is None else mask.cpu()
        documents = torch.arange(len(tokens), dtype=torch.int32)
        return cls(tokens.cpu().int(), mask, documents, {"context": tokens.shape[1]})

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, chosen: slice | Int[Tensor, " m"]) -> TokenWindows:
        return replace(self, tokens=self.tokens[chosen], mask=self.mask[chosen], documents=self.documents[chosen])

    @property
    def context(self) -> int:
        """Tokens in a window."""
        return self.tokens.shape[1]

    @cached_property
    def n_tokens(self) -> int:
        """Tokens that are not padding."""
        return int(self.mask.sum())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the token ids, the padding and the documents' numbers."""
        return fingerprint_tensors({"tokens": self.tokens, "mask": self.mask, "documents": self.documents})

    def shuffled(self, seed: int) -> TokenWindows:
        """The same windows in random order, for training; ``documents`` still tells where each came from."""
        return self[torch.from_numpy(np.random.default_rng(seed).permutation(len(self)))]

    def save(self, path: Path | str, *, force: bool = False) -> None:
        """Write a directory of ``tokens.safetensors`` and a manifest. Raises OutputError if one is there already."""
        with output_directory(Path(path), force=force) as partial:
            tensors = {"tokens": self.tokens, "mask": self.mask, "documents": self.documents}
            write_tensors(partial / "tokens.safetensors", tensors)
            body = {"windows": len(self), "tokens": self.n_tokens, "fingerprint": self.fingerprint, "info": self.info}
            write_manifest(partial, SCHEMA, VERSION, body)

    @classmethod
    def load(cls, path: Path | str) -> TokenWindows:
        """Windows that ``save`` wrote. Raises DataError if they are not whole or not what was written."""
        manifest = read_manifest(Path(path), SCHEMA, VERSION)
        windows = cls(**read_tensors(Path(path) / "tokens.safetensors"), info=manifest["info"])
        if windows.fingerprint != manifest["fingerprint"]:
            raise DataError(f"{path} was changed after it was written; tokenize the text again")
        return windows

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises MismatchError if the windows were made with another vocabulary."""
        made = self.info.get("tokenizer")
        if made is not None and made != fingerprint_tokenizer(tokenizer):
            raise MismatchError("the windows were tokenized for another model: the vocabularies differ; tokenize again")


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the vocabulary."""
    return fingerprint(tokenizer.get_vocab())


@dataclass(frozen=True)
class _Ids:
    bos: int
    separator: int | None
    pad: int


def _special_ids(tokenizer: PreTrainedTokenizerBase, policy: Bos) -> _Ids:
    def first(*names: str) -> int | None:
        ids = (getattr(tokenizer, f"{name}_token_id", None) for name in names)
        return next((token for token in ids if token is not None), None)

    bos = first("bos", "cls")
    if bos is None and policy != "none":
        raise ConfigError(f'this tokenizer has no beginning-of-sequence token; write bos = "none", found {policy!r}')
    separator = bos if policy == "document" else first("eos", "sep", "bos")
    pad = first("pad", "eos", "bos")
    return _Ids(bos=-1 if bos is None else bos, separator=separator, pad=0 if pad is None else pad)


def _read_stream(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, ids: _Ids, bos: Bos, wanted: int | None
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


def _encode(batch: list[str], tokenizer: PreTrainedTokenizerBase) -> Iterable[list[int]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and backend.truncation is None and backend.padding is None:
        return (encoding.ids for encoding in backend.encode_batch_fast(batch, add_special_tokens=False))
    # Some tokenizer files ask for truncation or padding, which would silently lose text or add to it.
    return tokenizer(batch, add_special_tokens=False, truncation=False, padding=False, verbose=False)["input_ids"]
