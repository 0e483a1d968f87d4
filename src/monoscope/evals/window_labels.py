"""Labels of token windows that were packed from Python sources."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from transformers import PreTrainedTokenizerBase

from monoscope.core.errors import DataError, MismatchError
from monoscope.evals.python_labels import PythonLabels, python_labels, unlabelled
from monoscope.harvest.text.pack import TokenWindows


def window_labels(windows: TokenWindows, documents: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> PythonLabels:
    """Labels ``[n, context]`` of windows, each token's from the whole of its document.

    ``documents`` are those the windows were packed from, in the same order; the windows are not shuffled. Tokens that
    are not text (BOS, separators, padding) and those of documents that are not Python have no label, not even
    ``parsed``. Needs a tokenizer that gives offsets. Raises MismatchError where the windows hold something else.
    """
    windows.check_tokenizer(tokenizer)
    index = np.full(tuple(windows.tokens.shape), -1)
    opening = int(windows.info.get("bos") == "window")
    is_text = windows.mask.numpy().copy()
    is_text[:, :opening] = False
    index[is_text] = np.arange(is_text.sum())
    stream, at, parts = windows.tokens.numpy()[is_text], 0, []
    for number, text in enumerate(documents):
        if at == len(stream):
            break
        encoded = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
        )
        ids = np.array(encoded["input_ids"], dtype=np.int64)
        if len(ids) and not _starts_with(stream[at:], ids):  # one token may stand between two documents
            parts.append(unlabelled(1))
            at += 1
            if not _starts_with(stream[at:], ids):
                raise MismatchError(f"the windows do not hold document {number} where it should begin, at token {at:,}")
        labels = _labels(text, encoded["offset_mapping"])
        parts.append(labels.take(np.arange(min(len(labels), len(stream) - at))))
        at += len(parts[-1])
    if at < len(stream):
        raise MismatchError(f"the windows go on after the last document: {at:,} of {len(stream):,} tokens are labelled")
    return PythonLabels.concatenate(parts).take(index)


def _starts_with(stream: np.ndarray, ids: np.ndarray) -> bool:
    """Whether the stream goes on with these tokens, or ends among them."""
    return np.array_equal(stream[: len(ids)], ids[: len(stream)])


def _labels(text: str, spans: list[tuple[int, int]]) -> PythonLabels:
    try:
        return python_labels(text, spans)
    except DataError:
        return unlabelled(len(spans))
