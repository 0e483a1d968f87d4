"""Firings: what fires in a batch of whole sequences, sorted so that every statistic is an operation on segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64, UInt32

from monoscope.core.acts import Acts
from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import DataError, MismatchError
from monoscope.dictionaries import Dictionary
from monoscope.features.columns import order_of

Sources = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

MAX_ELEMENTS = 2**24
"""Feature activations encoded at once where a dictionary answers densely: 64 MB in float32."""


@dataclass(frozen=True, slots=True)
class Firings:
    """Entries (feature, token, value) of a batch, ordered by feature, then by token.

    tokens, counts: ``[sequence, pos]`` token ids, and which positions count
    first: number of the batch's first sequence in the corpus
    feature, value, sequence, position: ``[n]`` the entries; ``sequence`` counts within the batch
    segments: ``[m + 1]`` bounds of the runs of one feature; ``features [m]`` whose runs they are
    groups: ``[g + 1]`` bounds of the runs of one feature in one sequence; finer than segments
    sources: for dictionaries that read sequences, ``(sequence, feature, position) -> [n, pos]``: what each token of the
        sequence contributes to a feature's pre-activation at a position
    """

    n_features: int
    first: int
    tokens: UInt32[np.ndarray, "sequence pos"]
    counts: Bool[np.ndarray, "sequence pos"]
    feature: Int32[np.ndarray, " n"]
    value: Float32[np.ndarray, " n"]
    sequence: Int32[np.ndarray, " n"]
    position: Int32[np.ndarray, " n"]
    features: Int32[np.ndarray, " m"]
    segments: Int64[np.ndarray, " m1"]
    groups: Int64[np.ndarray, " g1"]
    sources: Sources | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens that count."""
        return int(self.counts.sum())

    @staticmethod
    def of(batch: ActivationBatch, dictionary: Dictionary, first: int) -> Firings:
        """Encode a batch of sequences. Raises MismatchError for tokens without sequences, DataError for NaN."""
        tokens, counts = _text(batch)
        row, feature, value = _encode(dictionary, batch)
        order = order_of(feature)  # stable: tokens stay in order within a feature
        feature, value = feature[order], value[order]
        place = np.flatnonzero(counts).astype(np.int32)[row[order]]
        sequence, position = np.divmod(place, np.int32(counts.shape[1]))
        firings = Firings._sorted(dictionary.n_features, first, tokens, counts, feature, value, sequence, position)
        return firings if dictionary.per_token else replace(firings, sources=_sources(dictionary, batch))

    @staticmethod
    def _sorted(
        n_features: int,
        first: int,
        tokens: np.ndarray,
        counts: np.ndarray,
        feature: np.ndarray,
        value: np.ndarray,
        sequence: np.ndarray,
        position: np.ndarray,
    ) -> Firings:
        new_feature = np.diff(feature, prepend=-1) != 0
        segments = np.flatnonzero(new_feature)
        groups = np.flatnonzero(new_feature | (np.diff(sequence, prepend=-1) != 0))
        end = len(feature)
        return Firings(
            n_features,
            first,
            tokens,
            counts,
            feature,
            value,
            sequence,
            position,
            feature[segments],
            np.append(segments, end),
            np.append(groups, end),
        )


def _text(batch: ActivationBatch) -> tuple[np.ndarray, np.ndarray]:
    if batch.tokens is None or batch.tokens.ndim != 2:
        raise MismatchError(
            "features are analyzed in their text: a source of whole sequences is needed, such as live(...) or a store "
            "that is not shuffled; this one yields tokens without their sequences"
        )
    tokens = batch.tokens.cpu().numpy()
    if tokens.shape[1] > 2**16 - 1:
        raise DataError(f"sequences of {tokens.shape[1]:,} tokens are too long to analyze; cut them to 65,535 at most")
    counts = np.ones(tokens.shape, bool) if batch.mask is None else batch.mask.cpu().numpy().astype(bool)
    return tokens.astype(np.uint32), counts


def _encode(
    dictionary: Dictionary, batch: ActivationBatch
) -> tuple[Int64[np.ndarray, " n"], Int32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Token among those that count, feature and value of every entry, ordered by token.

    With a gate at each site, a feature fires where any is open.
    """
    start = 0
    tokens, features, values = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
    with torch.inference_mode():
        for acts in _acts(dictionary, batch):
            is_gated = acts.values.ndim > 2
            token, feature, value = (acts.at_any_gate() if is_gated else acts).coo()
            tokens.append(token.cpu().numpy() + start)
            start += len(acts.values)
            features.append(feature.int().cpu().numpy())
            values.append(value.float().cpu().numpy())
    value = np.concatenate(values)
    if not np.isfinite(value).all():
        bad = int(np.concatenate(tokens)[~np.isfinite(value)][0])
        raise DataError(f"a feature activation is not finite, first at token {bad} of the batch; check the source")
    return np.concatenate(tokens), np.concatenate(features), value


def _acts(dictionary: Dictionary, batch: ActivationBatch) -> Iterator[Acts]:
    """Activations of the tokens that count, some tokens or some sequences at a time."""
    weight = next(dictionary.parameters())
    x, _ = dictionary.gather(batch.flat() if dictionary.per_token else batch)
    x = x.to(weight.device, weight.dtype)
    if dictionary.per_token:
        for part in x.split(max(256, MAX_ELEMENTS // dictionary.n_features)):
            yield dictionary.encode(part)
        return
    counts = torch.ones(x.shape[:2], dtype=torch.bool) if batch.mask is None else batch.mask
    n = max(1, MAX_ELEMENTS // (dictionary.n_features * x.shape[1]))
    for part, mask in zip(x.split(n), counts.to(x.device).split(n), strict=True):
        yield dictionary.activate(dictionary.preacts(part)[mask])


def _sources(dictionary: Dictionary, batch: ActivationBatch) -> Sources:
    weight = next(dictionary.parameters())
    x = dictionary.gather(batch)[0].to(weight.device, weight.dtype)

    def contributions(sequence: np.ndarray, feature: np.ndarray, position: np.ndarray) -> np.ndarray:
        entries = (torch.from_numpy(value).long().to(x.device) for value in (sequence, feature, position))
        with torch.inference_mode():
            return dictionary.contributions_at(x, *entries).float().cpu().numpy()

    return contributions
