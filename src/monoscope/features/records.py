"""What is known of one feature, as plain typed records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64, UInt64

if TYPE_CHECKING:
    from monoscope.features.widgets.views import FeatureView


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the vocabulary, with the value it stands beside: a logit effect, a mean activation, a share."""

    id: int
    text: str
    value: float


@dataclass(frozen=True, slots=True)
class Neighbor:
    """Another feature, with its cosine or its mutual information."""

    feature: int
    value: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """What somebody said a feature is: by which method and judge, with its scores by scorer.

    n_train, n_test: contexts it was made from, and scored on; disjoint: whether no context was in both
    """

    feature: int
    id: str
    text: str
    method: str = ""
    judge: str = ""
    prompt_hash: str = ""
    created: str = ""
    scores: tuple[tuple[str, float], ...] = ()
    n_train: int | None = None
    n_test: int | None = None
    disjoint: bool | None = None


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts in bins between consecutive edges; empty where nothing was counted."""

    edges: Float32[np.ndarray, " edges"]
    counts: UInt64[np.ndarray, " bins"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A band of activations (low, high], and the share of the feature's firings that fall into it."""

    number: int
    low: float
    high: float
    share: float


@dataclass(frozen=True, slots=True)
class Context:
    """A token window.

    interval: 0 the strongest, 1 .. n from the strongest band to the weakest, -1 random firing, -2 not firing
    max_act, max_pos: the strongest activation of the window's sequence, and its position in the sequence
    sequence, start, stop: where the window is; document: the document its sequence begins in
    dup_of: rank, in the same interval, of the context that this one repeats; None for a context of its own
    token_ids, tokens: the window; acts: the activation at each of its tokens, 0 where the feature does not fire
    sources: of a feature that reads sequences, positions in the sequence that contribute most at ``max_pos``, and how
        much
    """

    interval: int
    rank: int
    max_act: float
    max_pos: int
    sequence: int
    document: int
    start: int
    stop: int
    dup_of: int | None
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    acts: Float32[np.ndarray, " window"]
    sources: tuple[tuple[int, float], ...] = ()

    @property
    def peak(self) -> int:
        """Place of the strongest token within the window."""
        return self.max_pos - self.start

    @property
    def text(self) -> str:
        """The window's text."""
        return "".join(self.tokens)


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of a bundle. Counts are of tokens or sequences, activations in the dictionary's units.

    logits: histogram of logit effects over the vocabulary; promoted, suppressed: the tokens at its ends
    tokens: what it fires on most, with the share of its firings; token_means: mean activation on each of them
    quantiles: deciles of its activations where it fires, from the smallest to the largest
    write_norms, write_cosine: at each site it writes to, the norm of its direction, and the cosine with the longest one
    """

    index: int
    n_fired: int
    density: float
    n_sequences: int
    max_act: float
    p999_act: float
    mean_act: float
    std_act: float
    is_dead: bool
    dec_norm: float
    enc_norm: float
    enc_dec_cos: float
    first_pos_share: float
    logit_kurtosis: float
    acts: Histogram
    logits: Histogram
    quantiles: Float32[np.ndarray, " q"]
    intervals: tuple[Interval, ...]
    tokens: tuple[Token, ...]
    token_means: Float64[np.ndarray, " t"]
    promoted: tuple[Token, ...]
    suppressed: tuple[Token, ...]
    decoder_neighbors: tuple[Neighbor, ...]
    encoder_neighbors: tuple[Neighbor, ...]
    together: tuple[Neighbor, ...]
    write_norms: Float32[np.ndarray, " writes"]
    write_cosine: Float32[np.ndarray, " cosines"]
    contexts: tuple[Context, ...]

    def interval(self, number: int) -> tuple[Context, ...]:
        """Contexts of one interval, strongest first."""
        return tuple(context for context in self.contexts if context.interval == number)

    def show(self) -> FeatureView:
        """A live view for notebooks; its ``selected`` and ``hovered`` are tokens. Needs the extra ``notebook``."""
        from monoscope.features.widgets import show_feature

        return show_feature(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from monoscope.features.notebook import feature_html

        return feature_html(self)

    def __repr__(self) -> str:
        top = ", ".join(repr(token.text) for token in self.tokens[:3])
        return f"Feature({self.index}, density={self.density:.2g}, max_act={self.max_act:.3g}, tokens=[{top}])"
