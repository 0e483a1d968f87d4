"""TokenWindows: text as token windows of one length, packed without waste.

Documents follow each other in one stream, which is cut into windows; only the end of the last one is padding. Special
tokens are added by policy:

    "window"     each window opens with BOS; between two documents stands EOS, or BOS where there is no EOS
    "document"   BOS before each document and nowhere else
    "none"       only the EOS between two documents, for tokenizers that have one

Documents that must stay whole (conversations) are packed one to a window instead, and padded; see ``from_sequences``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Bool, Int
from torch import Tensor

from monoscope.core.errors import ConfigError, DataError, MismatchError
from monoscope.core.io import (
    fingerprint_tensors,
    output_directory,
    read_manifest,
    read_tensors,
    write_manifest,
    write_tensors,
)
from monoscope.core.stores.remote import Location, Remote, fetched, location
from monoscope.harvest.text.encode import Bos, fingerprint_tokenizer, read_sequences, read_stream, special_ids

SCHEMA, VERSION = "monoscope.tokens", 1
SEQUENCE = "sequence"  # packing: a document is a window


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
        tokenizer: transformers.PreTrainedTokenizerBase,
        *,
        context: int = 256,
        bos: Bos = "window",
        tokens: int | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> TokenWindows:
        """Documents, tokenized on all threads and packed; reading stops once there are ``tokens`` tokens in windows.

        Raises DataError for text without a token, ConfigError for a BOS policy that the tokenizer cannot follow.
        """
        ids = special_ids(tokenizer, bos)
        opening = [] if bos != "window" else [ids.bos]
        body = context - len(opening)
        if body < 1:
            raise ConfigError(f"context counts the tokens of a window and must be at least 2, found {context}")
        wanted = None if tokens is None else math.ceil(tokens / context) * body
        stream, starts = read_stream(documents, tokenizer, ids, bos, wanted)
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
    def from_sequences(
        cls,
        documents: Iterable[str],
        tokenizer: transformers.PreTrainedTokenizerBase,
        *,
        context: int = 256,
        tokens: int | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> TokenWindows:
        """Each document a window of its own: none is joined to another, split, or given tokens it does not have.

        What is longer than ``context`` is cut off there (``info["cut_tokens"]`` counts what is lost); shorter windows
        are padded to the longest. Reading stops once there are ``tokens`` tokens. Raises DataError for text without a
        token.
        Source: Li et al. 2025 (arXiv:2506.07691), who train on the conversations of instruct models this way.
        """
        assert context >= 1, f"context counts the tokens of a window, found {context}"
        rows, numbers, cut = read_sequences(documents, tokenizer, context, tokens)
        lengths = np.array([len(row) for row in rows])
        mask = np.arange(lengths.max()) < lengths[:, None]
        out = np.full(mask.shape, special_ids(tokenizer, "none").pad, dtype=np.int32)
        out[mask] = np.concatenate(rows)
        made = {"packing": SEQUENCE, "bos": "none", "context": context, "cut_tokens": cut}
        return cls(
            tokens=torch.from_numpy(out),
            mask=torch.from_numpy(mask),
            documents=torch.from_numpy(np.array(numbers, dtype=np.int32)),
            info={**(info or {}), **made, "tokenizer": fingerprint_tokenizer(tokenizer)},
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

    @property
    def by_sequence(self) -> bool:
        """Whether each window is one document, of its own length."""
        return self.info.get("packing") == SEQUENCE

    @cached_property
    def n_tokens(self) -> int:
        """Tokens that are not padding."""
        return int(self.mask.sum())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the token ids, the padding and the documents' numbers."""
        return fingerprint_tensors({"tokens": self.tokens, "mask": self.mask, "documents": self.documents})

    def shuffled(self, seed: int, *, at_once: int = 1) -> TokenWindows:
        """The same windows in random order, for training; ``documents`` still tells where each came from.

        Of windows that differ in length, ``at_once`` of similar length stand together: batches of as many hold little
        padding, and come in random order.
        """
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self))
        if self.by_sequence:
            order = order[np.argsort(self.mask.sum(1).numpy()[order], kind="stable")]
            whole = len(order) // at_once
            batches = order[: whole * at_once].reshape(whole, at_once)[rng.permutation(whole)]
            order = np.concatenate([batches.ravel(), order[whole * at_once :]])
        return self[torch.from_numpy(order)]

    def trimmed(self) -> TokenWindows:
        """Without the positions behind the longest window, which are padding in all of them."""
        used = self.mask.any(0).nonzero()
        longest = int(used[-1]) + 1 if len(used) else 0
        return replace(self, tokens=self.tokens[:, :longest], mask=self.mask[:, :longest])

    def save(self, path: Location | str, *, force: bool = False) -> None:
        """Write a directory of ``tokens.safetensors`` and a manifest. Raises OutputError if one is there already."""
        with output_directory(location(path), force=force) as partial:
            tensors = {"tokens": self.tokens, "mask": self.mask, "documents": self.documents}
            write_tensors(partial / "tokens.safetensors", tensors)
            body = {"windows": len(self), "tokens": self.n_tokens, "fingerprint": self.fingerprint, "info": self.info}
            write_manifest(partial, SCHEMA, VERSION, body)

    @classmethod
    def load(cls, path: Location | str) -> TokenWindows:
        """Windows that ``save`` wrote. Raises DataError if they are not whole or not what was written."""
        path = location(path)
        if isinstance(path, Remote):
            with fetched(path) as nearby:
                return cls.load(nearby)
        manifest = read_manifest(path, SCHEMA, VERSION)
        windows = cls(**read_tensors(path / "tokens.safetensors"), info=manifest["info"])
        if windows.fingerprint != manifest["fingerprint"]:
            raise DataError(f"{path} was changed after it was written; tokenize the text again")
        return windows

    def check_tokenizer(self, tokenizer: transformers.PreTrainedTokenizerBase) -> None:
        """Raises MismatchError if the windows were made with another vocabulary."""
        made = self.info.get("tokenizer")
        if made is not None and made != fingerprint_tokenizer(tokenizer):
            raise MismatchError("the windows were tokenized for another model: the vocabularies differ; tokenize again")
