"""Task: two or more dictionaries beside each other, pair by pair.

Told back are numbers of every pair, and arrays from which pages of rows are made: pairs of features ``[2, m]`` that are
``N.matched``, ``N.splits``, ``N.merges``, ``N.only_a`` (each beside its nearest of b) or ``N.only_b``, N the number of
the pair of dictionaries; with ``N.matched.cosine`` and ``N.matched.correlation`` where they could be measured.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict
from scipy.sparse import csc_array, csr_array, vstack
from torch import Tensor
from torch.nn.functional import normalize

from monoscope.core.errors import DataError, MismatchError
from monoscope.core.progress import progress
from monoscope.evals.correspondence import (
    Correspondence,
    by_activation,
    by_direction,
    chance,
    correlations,
    nearest_other,
)
from monoscope.features.weights.directions import written
from monoscope.server.worker.encoded import Encoded, check_fits
from monoscope.server.worker.plan import calibration
from monoscope.server.worker.process import Context, Result
from monoscope.server.worker.shelf import Model, Target

BINS = 20
ROWS_AT_ONCE, LENGTH = 8, 128


class Compared(BaseModel):
    """A dictionary to compare: its bundle, and what can be run where it can be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bundle: str
    signed: bool
    target: Target | None


class Compare(BaseModel):
    """See ``wire.compare.CompareRequest``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dicts: list[Compared]
    by: Literal["decoder", "activations"]
    threshold: float
    tokens: int


class _Side:
    """One dictionary of a comparison."""

    def __init__(self, context: Context, about: Compared) -> None:
        self.about, self.context = about, context
        self.acts: csc_array | None = None
        self.why_silent: str | None = None
        self.rows = self._rows()

    def _rows(self) -> Float[Tensor, "F d"] | None:
        if self.about.target is not None:
            rows = written(self.context.shelf.dictionary(self.about.target))
            return None if rows is None else rows.detach().float().cpu()
        facts = self.context.shelf.bundle(self.about.bundle)
        rows = facts.bundle.decoder()
        return None if rows is None else torch.as_tensor(rows).float()


def compare(context: Context, body: dict[str, Any]) -> Result:
    """All pairs of some dictionaries."""
    asked = Compare.model_validate(body)
    with progress("read dictionaries", len(asked.dicts), "dictionaries") as bar:
        sides = []
        for about in asked.dicts:
            sides.append(_Side(context, about))
            bar.advance(1)
    _read_activations(context, sides, asked)
    arrays: dict[str, np.ndarray] = {}
    pairs = []
    for number, (a, b) in enumerate(combinations(sides, 2)):
        found, note = _pair(a, b, asked)
        pairs.append(_summary(a, b, found, note, asked) | {"number": number})
        arrays |= {f"{number}.{name}": array for name, array in _tables(a, b, found).items()}
        context.check()
    nearest = {side.about.name: None if side.rows is None else nearest_other(side.rows) for side in sides}
    return {"pairs": pairs, "nearest": nearest, "n_tokens": _n_tokens(sides)}, arrays


def _pair(a: _Side, b: _Side, asked: Compare) -> tuple[Correspondence, str | None]:
    note = None
    if a.acts is None or b.acts is None:
        note = f"no correlations: {a.why_silent or b.why_silent or 'the two read different models'}"
    if asked.by == "activations":
        if a.acts is None or b.acts is None:
            raise MismatchError(f"{a.about.name} and {b.about.name} cannot be compared by activations; {note}")
        return by_activation(a.acts, b.acts, asked.threshold), None
    if a.rows is None or b.rows is None:
        nameless = a if a.rows is None else b
        raise DataError(f"{nameless.about.name} holds no feature directions; compare by activations")
    signed = not (a.about.signed or b.about.signed)
    return by_direction(a.rows, b.rows, asked.threshold, signed=signed), note


def _summary(a: _Side, b: _Side, found: Correspondence, note: str | None, asked: Compare) -> dict[str, Any]:
    alone_a, alone_b = found.alone()
    bins = torch.histc(found.best_a.clamp(0, 1), BINS, 0, 1).long().tolist()
    by_chance = None
    if asked.by == "decoder" and a.rows is not None:
        by_chance = chance(len(found.best_a), len(found.best_b), a.rows.shape[1], signed=not a.about.signed)
    return {
        "a": a.about.name,
        "b": b.about.name,
        "n_matched": found.pairs.shape[1],
        "n_only_a": len(alone_a),
        "n_only_b": len(alone_b),
        "n_splits": len(found.splits()),
        "n_merges": len(found.merges()),
        "nearest_a": found.best_a.mean().item(),
        "nearest_b": found.best_b.mean().item(),
        "chance": by_chance,
        "matched_mean": found.similarity.mean().item() if len(found.similarity) else None,
        "histogram": bins,
        "note": note,
    }


def _tables(a: _Side, b: _Side, found: Correspondence) -> dict[str, np.ndarray]:
    alone_a, alone_b = found.alone()
    groups = {
        "matched": found.pairs,
        "splits": _edges(found.splits(), flipped=False),
        "merges": _edges(found.merges(), flipped=True),
        "only_a": torch.stack([alone_a, found.nearest_a[alone_a]]),
        "only_b": torch.stack([found.nearest_b[alone_b], alone_b]),
    }
    arrays = {}
    for name, pairs in groups.items():
        arrays[name] = pairs.to(torch.int32).numpy()
        if a.rows is not None and b.rows is not None and a.rows.shape[1] == b.rows.shape[1]:
            arrays[f"{name}.cosine"] = _cosines(a.rows, b.rows, pairs)
        if a.acts is not None and b.acts is not None:
            arrays[f"{name}.correlation"] = correlations(a.acts, b.acts, pairs).astype(np.float32)
    return arrays


def _edges(families: dict[int, list[int]], *, flipped: bool) -> Int[Tensor, "2 m"]:
    """Families as pairs (feature of a, feature of b), largest families first."""
    ordered = sorted(families.items(), key=lambda family: -len(family[1]))
    edges = [(child, parent) if flipped else (parent, child) for parent, own in ordered for child in own]
    return torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T


def _cosines(a: Tensor, b: Tensor, pairs: Int[Tensor, "2 m"]) -> Float[np.ndarray, " m"]:
    parts = []
    for part in pairs.split(8192, dim=1):
        parts.append((normalize(a[part[0]], dim=1) * normalize(b[part[1]], dim=1)).sum(1))
    return torch.cat(parts).numpy() if parts else np.zeros(0, np.float32)


def _read_activations(context: Context, sides: list[_Side], asked: Compare) -> None:
    """Activations of every dictionary that can be run on the text of the first, which must be of one model."""
    runnable = []
    for side in sides:
        if side.about.target is None:
            side.why_silent = f"the weights of {side.about.name} or its model are not here"
        elif runnable and side.about.target.model != runnable[0].about.target.model:
            side.why_silent = f"{side.about.name} is of another model"
        else:
            runnable.append(side)
    if len(runnable) < 2:
        return
    targets = [side.about.target for side in runnable if side.about.target is not None]
    model = context.shelf.only_model(targets)
    tokens = calibration(model, context.shelf.facts(targets[0]), -(-asked.tokens // LENGTH), LENGTH)
    if tokens is None:
        for side in runnable:
            side.why_silent = f"{runnable[0].about.name} holds no text that {model.name} can read"
        return
    parts: list[list[csc_array]] = [[] for _ in runnable]
    with progress("read activations", tokens.numel(), "tokens") as bar:
        for rows in tokens.split(ROWS_AT_ONCE):
            for number, target in enumerate(targets):
                parts[number].append(_encode(context, model, target, rows))
            bar.advance(rows.numel())
    first = max(target.skip_first for target in targets)
    inside = np.flatnonzero(np.arange(tokens.numel()) % tokens.shape[1] >= first)
    for side, own in zip(runnable, parts, strict=True):
        side.acts = csc_array(csr_array(vstack(own))[inside])


def _encode(context: Context, model: Model, target: Target, rows: Int[Tensor, "row pos"]) -> csc_array:
    """Activations of some rows, one line a token."""
    dictionary = context.shelf.dictionary(target)
    check_fits(model, target, dictionary)
    read = model.lm.read(rows, [model.lm.resolve(site) for site in dictionary.reads])
    read = dict(zip(dictionary.reads, read.values(), strict=True))
    token, feature, value = (x.cpu().numpy() for x in Encoded(target, dictionary, None, read, 0, None).batch.coo())
    return csc_array((value.astype(np.float64), (token, feature)), shape=(rows.numel(), dictionary.n_features))


def _n_tokens(sides: list[_Side]) -> int:
    return max((int(side.acts.shape[0]) for side in sides if side.acts is not None and side.acts.shape), default=0)
