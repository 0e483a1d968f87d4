"""ITDA: inference-time decomposition of activations. The features are activations, kept because the others miss them.

    for each token:   acts = pursuit(x, D, k)        if ||x - acts @ D||^2 > tau ||x||^2:   D gains the row x / ||x||

No encoder and no gradient. ``tau`` is a share of the token's own square, so that it means the same at every layer and
outliers are not kept for their length; it sets how many features there will be. Every token is tested against all that
came before it, so that neither a batch's size nor repetitions inside it leave near-copies.

Each feature remembers which token it was. Two models that read the same tokens are compared by the tokens they keep:

    J = |A and B| / |A or B|

Source: Leask, Nanda, Al Moubayed 2025 (arXiv:2505.17769), algorithms 1 and 2, who compare the error with tau itself
and drop duplicates. Shapes: N tokens, F features, d width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from monoscope import ops
from monoscope.core.errors import MismatchError
from monoscope.core.site import Site
from monoscope.dictionaries.base import Dictionary, Wiring
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.pursuit import ORIGIN, MatchingPursuit
from monoscope.dictionaries.variants.pursuit import Pursuit

TESTED_TOGETHER = 128  # tokens encoded at once; those that fail are tested again after each row that is added
ROOM = 256  # rows by which memory grows
MOST_WITH_PRODUCTS = 2**14  # features whose products with each other are kept: 1 GB


class ITDA(Wiring):
    """A dictionary that grows from data. ``n_features`` is the most it may have, and once trained what it has."""

    accepts_functions = frozenset({"pursuit"})
    accepts_terms = frozenset()
    grows = True

    kind: Literal["itda"] = "itda"
    n_features: int = Field(default=4096, ge=1, description="the most features it may gain")
    tau: float = Field(default=0.1, gt=0, lt=1, description="share of a token's square that may stay unexplained")

    @property
    def encodes_linearly(self) -> bool:
        """No: a choice depends on what the choices before it left."""
        return False

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Pursuit, nothing to minimize, and activations as they are."""
        return {"function": {"kind": "pursuit"}, "terms": {}, "normalize": "none"}

    def build(
        self,
        function: ActivationFunction.Config,
        reads: tuple[Site, ...],
        writes: tuple[Site, ...],
        widths: Mapping[Site, int],
    ) -> MatchingPursuit:
        """A dictionary of zero rows; ``initialize_`` takes them away, for data to give others."""
        assert isinstance(function, Pursuit.Config), "recipes check that the wiring takes the function"
        activation = Pursuit(function)  # k may exceed the features there are: choices may come back to one
        return MatchingPursuit(self, self.n_features, activation, reads, writes, widths, remembers_origins=True)


@dataclass(frozen=True, slots=True)
class Growth:
    """What a batch did to a dictionary.

    added: rows of the batch that became features, in order
    fired: ``[F]``, features that a token of the batch was decomposed into
    """

    added: list[int]
    fired: Bool[Tensor, " F"]


@torch.no_grad()
def grow_(dictionary: MatchingPursuit, x: Float[Tensor, "n d"], origin: Int[Tensor, "n 3"], most: int) -> Growth:
    """Add what a batch of tokens has that the dictionary misses, up to ``most`` features in all.

    ``origin`` says for each token what ``ORIGIN`` names.
    """
    assert isinstance(dictionary.config, ITDA), "only an ITDA grows"
    assert dictionary.origin is not None, "an ITDA remembers the origins of its features"
    tau, square = dictionary.config.tau, x.pow(2).sum(1)
    pursued = _Rows(dictionary, most)
    added: list[int] = []
    for start in range(0, len(x), TESTED_TOGETHER):
        waiting = torch.arange(start, min(start + TESTED_TOGETHER, len(x)))
        while len(waiting):
            missed = pursued.error(x[waiting])
            waiting = waiting[missed > tau * square[waiting]]
            if not len(waiting) or len(pursued) == most:
                break
            first = int(waiting[0])
            pursued.append(x[first] / square[first].sqrt())
            added.append(first)
            waiting = waiting[1:]
    dictionary.resize_(len(pursued))
    if added:
        dictionary.W_dec[-len(added) :] = pursued.rows[-len(added) :]
        dictionary.origin[-len(added) :] = origin[added]
    return Growth(added, pursued.fired[: len(pursued)])


class _Rows:
    """Unit rows to pursue into, with room for more, and the products between them while those fit in memory."""

    def __init__(self, dictionary: MatchingPursuit, most: int) -> None:
        assert isinstance(dictionary.activation, Pursuit)
        self.k = dictionary.activation.k
        self.method: Literal["mp", "omp"] = dictionary.activation.config.method
        rows = dictionary.W_dec.detach()
        self.n = len(rows)
        self.fired = torch.zeros(most, dtype=torch.bool)
        self._rows, self._gram = rows, rows @ rows.T if self.n <= MOST_WITH_PRODUCTS else None
        self._make_room()

    def __len__(self) -> int:
        return self.n

    @property
    def rows(self) -> Float[Tensor, "F d"]:
        """The rows there are."""
        return self._rows[: self.n]

    def _make_room(self) -> None:
        room = self.n + ROOM
        rows = self._rows.new_zeros(room, self._rows.shape[1])
        rows[: self.n] = self._rows
        self._rows = rows
        if self._gram is not None and self.n <= MOST_WITH_PRODUCTS:
            gram = rows.new_zeros(room, room)
            gram[: self.n, : self.n] = self._gram
            self._gram = gram
        else:
            self._gram = None

    def append(self, row: Float[Tensor, " d"]) -> None:
        """One row more."""
        if self.n == len(self._rows):
            self._make_room()
        self._rows[self.n] = row
        self.n += 1
        self.fired[self.n - 1] = True
        if self._gram is not None:
            products = self.rows @ row
            self._gram[self.n - 1, : self.n] = products
            self._gram[: self.n, self.n - 1] = products

    def error(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Squared error of every token's decomposition."""
        gram = None if self._gram is None else self._gram[: self.n, : self.n]
        acts = ops.pursue(x, self.rows, self.k, self.method, gram=gram)
        self.fired[: self.n] |= acts.fired()
        return (x - ops.decode(acts, self.rows)).pow(2).sum(1)


def jaccard(a: Dictionary, b: Dictionary) -> float:
    """Share of the tokens kept by either dictionary that both keep: how similar the models are they were grown from.

    Raises MismatchError where the dictionaries are not ITDAs, or did not read the same tokens in the same order.
    """
    kept = [_origins(dictionary) for dictionary in (a, b)]
    _check_same_tokens(a, b)
    first, second = ({int(row[0]): tuple(row[1:].tolist()) for row in origin} for origin in kept)
    for place in first.keys() & second.keys():
        if first[place] != second[place]:
            raise MismatchError(
                f"token {place:,} of the stream is not the same in both: {_named(first[place])}, and "
                f"{_named(second[place])}; grow both from one text, tokenizer and seed"
            )
    either = first.keys() | second.keys()
    return len(first.keys() & second.keys()) / len(either) if either else 1.0


def chance_jaccard(a: Dictionary, b: Dictionary) -> float:
    """The ``jaccard`` to expect of models that share nothing: a stream's first tokens are kept by any model.

        sum over spans of n_a n_b / length        as the intersection

    where n counts the tokens kept among 1, 1, 2, 4, 8, ... of the stream: each is kept at random within its span.
    """
    _check_same_tokens(a, b)
    spans = [torch.frexp(_origins(dictionary)[:, 0].double())[1].bincount(minlength=64) for dictionary in (a, b)]
    lengths = 2.0 ** (torch.arange(64, dtype=torch.float64) - 1).clamp(min=0)
    both = (spans[0] * spans[1] / lengths).sum().item()
    either = a.n_features + b.n_features - both
    return both / either if either else 1.0


def _origins(dictionary: Dictionary) -> Int[Tensor, "F 3"]:
    origin = getattr(dictionary, "origin", None)
    if not isinstance(origin, nn.Parameter):
        raise MismatchError(f"ITDAs are compared by the tokens they keep; a {type(dictionary).__name__} keeps none")
    return origin.detach()


def _named(values: tuple[int, ...]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(ORIGIN[1:], values, strict=True))


OF_THE_MODEL = ("model", "dtype", "shape", "fingerprint", "excluded")
"""Entries of a source's provenance that may differ between two models that read the same tokens."""


def _check_same_tokens(a: Dictionary, b: Dictionary) -> None:
    stories = []
    for dictionary in (a, b):
        source, training = dictionary.provenance.get("source", {}), dictionary.provenance.get("training", {})
        if source.get("skip", {}).get("norm") is not None:
            raise MismatchError("tokens were skipped by the norm of their activations, which numbers them by model")
        told = {key: value for key, value in source.items() if key not in OF_THE_MODEL}
        if "shape" in source:
            told["rows"] = source["shape"][0]
        stories.append(told | {key: training.get(key) for key in ("tokens", "batch_tokens", "shuffle_tokens", "seed")})
    for key in sorted(stories[0].keys() | stories[1].keys()):
        if stories[0].get(key) != stories[1].get(key):
            raise MismatchError(
                f"the dictionaries did not read the same tokens: {key} was {stories[0].get(key)!r} for one and "
                f"{stories[1].get(key)!r} for the other"
            )
