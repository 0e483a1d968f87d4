"""On which tokens each feature fires: counts and mean activations of its most frequent ones.

Pairs (feature, token) are counted sparsely, in a table of at most 256 tokens a feature: exact for a feature that fires
on fewer; of one that fires on more, all but the 128 most frequent are forgotten, which can only understate a count.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Int32, Int64, Integer

from monoscope.features.columns import Columns, Ragged, order_of, rank_in_runs
from monoscope.features.firings import Firings

MOST, KEPT, SHOWN = 256, 128, 20
BUFFER = 2**21
TOKEN_BITS = 32
COUNTED = ("n_fired", "key", "count", "total")


class TokenStatistics:
    """Firings by (feature, token)."""

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features
        self.n_fired = np.zeros(n_features, np.int64)
        self.key: Int64[np.ndarray, " n"] = np.zeros(0, np.int64)  # feature << 32 | token, sorted
        self.count: Int32[np.ndarray, " n"] = np.zeros(0, np.int32)
        self.total: Float32[np.ndarray, " n"] = np.zeros(0, np.float32)
        self._keys: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        self._buffered = 0

    def update(self, firings: Firings) -> None:
        """Count a batch."""
        self.n_fired[firings.features] += np.diff(firings.segments)
        token = firings.tokens[firings.sequence, firings.position]
        self._keys.append((firings.feature.astype(np.int64) << TOKEN_BITS) | token)
        self._values.append(firings.value)
        self._buffered += len(token)
        if self._buffered >= max(BUFFER, len(self.key)):
            self._merge()

    def absorb(self, other: TokenStatistics) -> None:
        """Take in what another collected on other sequences."""
        other._merge()
        self._merge()
        self.n_fired += other.n_fired
        self._join(
            np.concatenate([self.key, other.key]),
            np.concatenate([self.count, other.count]),
            np.concatenate([self.total, other.total]),
        )

    def state(self) -> dict[str, np.ndarray]:
        """All that was collected, as arrays: what waits to be merged goes on waiting, as sums round by batch."""
        waiting = {
            "waiting_key": np.concatenate([np.zeros(0, np.int64), *self._keys]),
            "waiting_value": np.concatenate([np.zeros(0, np.float32), *self._values]),
        }
        return {name: getattr(self, name) for name in COUNTED} | waiting

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state."""
        self.n_fired, self.key, self.count, self.total = (state[name] for name in COUNTED)
        self._keys, self._values = [state["waiting_key"]], [state["waiting_value"]]
        self._buffered = len(state["waiting_key"])

    def finish(self) -> Columns:
        """top_token, top_token_share: the most frequent token and its share of the firings; 0 for a dead feature.

        token_ids, token_share, token_mean_act: the 20 most frequent, their shares, and the mean activation on each
        """
        self._merge()
        shown = self._most_frequent(self.key >> TOKEN_BITS, SHOWN)
        feature, count = self.key[shown] >> TOKEN_BITS, self.count[shown]
        token = (self.key[shown] & (2**TOKEN_BITS - 1)).astype(np.uint32)
        share = (count / self.n_fired[feature]).astype(np.float32)
        mean = (self.total[shown] / count).astype(np.float32)
        first = rank_in_runs(feature) == 0
        top, top_share = np.zeros(self.n_features, np.uint32), np.zeros(self.n_features, np.float32)
        top[feature[first]], top_share[feature[first]] = token[first], share[first]
        lists = {"token_ids": token, "token_share": share, "token_mean_act": mean}
        return Columns(
            {"top_token": top, "top_token_share": top_share},
            {name: Ragged.from_groups(values, feature, self.n_features) for name, values in lists.items()},
        )

    def _most_frequent(self, feature: Int64[np.ndarray, " n"], most: int) -> Int64[np.ndarray, " m"]:
        """Rows of the ``most`` most frequent tokens of each feature, features in order, most frequent first."""
        order = order_of((feature << 32) | (np.int64(2**31) - self.count))
        return order[rank_in_runs(feature[order]) < most]

    def _merge(self) -> None:
        if not self._buffered:
            return
        key = np.concatenate([self.key, *self._keys])
        count = np.concatenate([self.count, np.ones(self._buffered, np.int32)])
        total = np.concatenate([self.total, *self._values])
        self._keys, self._values, self._buffered = [], [], 0
        self._join(key, count, total)

    def _join(
        self, key: Int64[np.ndarray, " n"], count: Integer[np.ndarray, " n"], total: Float32[np.ndarray, " n"]
    ) -> None:
        if not len(key):
            return
        order = order_of(key)
        key = key[order]
        starts = np.flatnonzero(np.diff(key, prepend=-1))
        self.key = key[starts]
        self.count = np.add.reduceat(count[order], starts)
        self.total = np.add.reduceat(total[order], starts, dtype=np.float64).astype(np.float32)
        feature = self.key >> TOKEN_BITS
        if np.bincount(feature).max() > MOST:
            kept = np.sort(self._most_frequent(feature, KEPT))
            self.key, self.count, self.total = self.key[kept], self.count[kept], self.total[kept]
