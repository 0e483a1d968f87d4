"""Tasks on one's own text: the features that fire, one feature alone, two texts compared."""

from __future__ import annotations

import time
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from monoscope.server.worker.encoded import Encoded, encoded
from monoscope.server.worker.process import Context, Result
from monoscope.server.worker.shelf import Model, Shelf, Target
from monoscope.server.worker.texts import Text, shown, tokenized


class Activate(BaseModel):
    """See ``live.wire.ActivateRequest``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: list[Target]
    prompt: Text
    top: int
    hide_first: bool
    max_density: float | None


class OneFeature(BaseModel):
    """See ``live.wire.FeatureRequest``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Target
    prompt: Text
    feature: int


class Diff(BaseModel):
    """See ``live.wire.DiffRequest``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Target
    a: Text
    b: Text
    top: int
    hide_first: bool
    max_density: float | None


def activate(context: Context, body: dict[str, Any]) -> Result:
    """The features of some dictionaries that fire on a text."""
    asked, began = Activate.model_validate(body), time.monotonic()
    model = context.shelf.only_model(asked.targets)
    tokens = tokenized(model, asked.prompt, asked.targets[0].bos)
    _read_at_once(context.shelf, model, asked.targets, tokens)
    each = []
    for target in asked.targets:
        context.check()
        each.append(
            encoded(context.shelf, model, target, tokens, hide_first=asked.hide_first, max_density=asked.max_density)
        )
    hidden = max(item.hidden for item in each)
    return {
        "tokens": shown(model, tokens.tolist()),
        "hidden": hidden,
        "per_token": _per_token(each, len(tokens), asked.top),
        "whole": _whole(each, asked.top),
        "heat": [_heat(item) for item in each],
        "other_model": [target.name for target in asked.targets if model.is_other(target)],
        "model": asked.targets[0].model,
        "dictionaries": {target.name: target.loaded() for target in asked.targets},
        "ms": _ms(began),
    }, {}


def one_feature(context: Context, body: dict[str, Any]) -> Result:
    """Activations of one feature on a text."""
    asked, began = OneFeature.model_validate(body), time.monotonic()
    model = context.shelf.only_model([asked.target])
    tokens = tokenized(model, asked.prompt, asked.target.bos)
    item = encoded(context.shelf, model, asked.target, tokens, hide_first=True, max_density=None)
    acts = item.of(asked.feature)
    largest = None if item.facts is None else float(item.facts.max_act[asked.feature])
    return {
        "dict": asked.target.name,
        "feature": asked.feature,
        "tokens": shown(model, tokens.tolist()),
        "acts": _rounded(acts),
        "hidden": item.hidden,
        "max_act": largest if largest is not None and np.isfinite(largest) else None,
        "ms": _ms(began),
    }, {}


def diff(context: Context, body: dict[str, Any]) -> Result:
    """Two texts aligned by token, and the features in which they differ most."""
    asked, began = Diff.model_validate(body), time.monotonic()
    model = context.shelf.only_model([asked.target])
    sides = []
    for prompt in (asked.a, asked.b):
        tokens = tokenized(model, prompt, asked.target.bos)
        item = encoded(
            context.shelf, model, asked.target, tokens, hide_first=asked.hide_first, max_density=asked.max_density
        )
        sides.append((tokens.tolist(), item, item.acts))
        context.check()
    (ids_a, a, _), (ids_b, b, _) = sides
    rows_a, rows_b = _by_token(a), _by_token(b)
    aligned = [
        {
            "a": i,
            "b": j,
            "same": i is not None and j is not None and ids_a[i] == ids_b[j],
            "features": _differences(rows_a[i] if i is not None else {}, rows_b[j] if j is not None else {}, asked.top),
        }
        for i, j in _alignment(ids_a, ids_b)
    ]
    total_a, total_b = (
        dict(zip(w["feature"].tolist(), w["value"].tolist(), strict=True)) for w in (a.whole(), b.whole())
    )
    return {
        "dict": asked.target.name,
        "tokens_a": shown(model, ids_a),
        "tokens_b": shown(model, ids_b),
        "hidden": max(a.hidden, b.hidden),
        "aligned": aligned,
        "whole": _differences(total_a, total_b, asked.top),
        "model": asked.target.model,
        "dictionaries": {asked.target.name: asked.target.loaded()},
        "ms": _ms(began),
    }, {}


def _read_at_once(shelf: Shelf, model: Model, targets: list[Target], tokens: Tensor) -> None:
    """One pass of the model for all dictionaries."""
    dictionaries = [shelf.dictionary(target) for target in targets]
    model.readings.read(tokens, [site for item in dictionaries for site in (*item.reads, *item.writes)])


def _per_token(each: list[Encoded], n_tokens: int, top: int) -> list[list[dict[str, Any]]]:
    """The strongest of all dictionaries at each token.

    Of several dictionaries, whose units differ, they are ordered by the share of each feature's own maximum.
    """
    merged: list[list[tuple[float, dict[str, Any]]]] = [[] for _ in range(n_tokens)]
    for item in each:
        values, features = item.strongest(top)
        shares = item.relative(features, values)
        for position in range(item.hidden, n_tokens):
            for value, feature, share in zip(values[position], features[position], shares[position], strict=True):
                if value != 0:
                    order = abs(value) if len(each) == 1 or not np.isfinite(share) else share
                    merged[position].append((float(order), _hit(item, int(feature), float(value), float(share))))
    return [[hit for _, hit in sorted(hits, key=lambda hit: -hit[0])[:top]] for hits in merged]


def _whole(each: list[Encoded], top: int) -> list[dict[str, Any]]:
    ranked: list[tuple[float, dict[str, Any]]] = []
    for item in each:
        found = item.whole()
        shares = item.relative(found["feature"], found["value"])
        for row in range(min(top, len(found["feature"]))):
            value, share = float(found["value"][row]), float(shares[row])
            order = abs(value) if len(each) == 1 or not np.isfinite(share) else share
            hit = _hit(item, int(found["feature"][row]), value, share)
            hit |= {"position": int(found["position"][row]), "n_tokens": int(found["n_tokens"][row])}
            ranked.append((order, hit | {"mean": _round(float(found["mean"][row]))}))
    return [hit for _, hit in sorted(ranked, key=lambda hit: -hit[0])[:top]]


def _hit(item: Encoded, feature: int, value: float, share: float) -> dict[str, Any]:
    density = None if item.facts is None else float(item.facts.density[feature])
    return {
        "dict": item.target.name,
        "feature": feature,
        "value": _round(value),
        "relative": _round(share) if np.isfinite(share) else None,
        "density": density if density is not None and np.isfinite(density) else None,
    }


def _heat(item: Encoded) -> dict[str, Any]:
    values, features = item.strongest(
        item.acts.values.shape[-1] if item.facts is not None and item.acts.is_sparse else 64
    )
    shares = np.nan_to_num(item.relative(features, values))
    layers = {site.layer for site in item.dictionary.reads}
    return {
        "dict": item.target.name,
        "name": ", ".join(str(site) for site in item.dictionary.reads[:3]),
        "layer": layers.pop() if len(layers) == 1 else None,
        "value": _rounded(np.abs(values).max(1, initial=0.0)),
        "relative": None if item.facts is None else _rounded(shares.max(1, initial=0.0)),
        "l0": item.acts.l0().tolist(),
        "error": _rounded(item.error()),
    }


def _by_token(item: Encoded) -> list[dict[int, float]]:
    """The features that fire at each token, with their values; none at hidden positions."""
    rows: list[dict[int, float]] = [{} for _ in range(item.acts.values.shape[0])]
    token, feature, value = (x.cpu().tolist() for x in item.acts.coo())
    keep = None if item.keep is None else item.keep.cpu().tolist()
    for t, f, v in zip(token, feature, value, strict=True):
        if t >= item.hidden and (keep is None or keep[f]):
            rows[t][f] = v
    return rows


def _differences(a: dict[int, float], b: dict[int, float], top: int) -> list[dict[str, Any]]:
    pairs = [(f, a.get(f, 0.0), b.get(f, 0.0)) for f in {*a, *b}]
    ranked = sorted(pairs, key=lambda pair: (-abs(pair[2] - pair[1]), pair[0]))[:top]
    return [{"feature": f, "a": _round(x), "b": _round(y)} for f, x, y in ranked if x != y]


def _alignment(a: list[int], b: list[int]) -> list[tuple[int | None, int | None]]:
    """Places of both texts beside each other: equal tokens where they match, and others in order between them."""
    pairs: list[tuple[int | None, int | None]] = []
    for _, i0, i1, j0, j1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for step in range(max(i1 - i0, j1 - j0)):
            pairs.append((i0 + step if i0 + step < i1 else None, j0 + step if j0 + step < j1 else None))
    return pairs


def _rounded(values: np.ndarray) -> list[float]:
    return [_round(float(value)) for value in values]


def _round(value: float) -> float:
    """Five significant digits: what is shown has three."""
    return float(f"{value:.5g}")


def _ms(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 2)
