"""``compare``: methods on a named world, all trained in one pass over the same draws and scored at the same L0.

Seeds are triples of the world's structure, the draws and the initialization, the same for every method. Two triples
that share a world give PW-MCC: how alike two runs of a method are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

import monoscope.evals.worlds.floors  # noqa: F401  (makes the wiring known)
from monoscope.core.progress import silent
from monoscope.evals.worlds.matching import pw_mcc
from monoscope.evals.worlds.methods import Method
from monoscope.evals.worlds.named import WORLDS
from monoscope.evals.worlds.score import Examination, Scores, feature_directions
from monoscope.harvest import synthetic
from monoscope.training import Training, train

L0_TOLERANCE = 0.02
LIMITS = ("true support", "pursuit at the true L0", "linear encoder", "random")
SEEDS = ((0, 0, 0), (0, 1, 1), (1, 2, 2), (1, 3, 3), (2, 4, 4))


@dataclass(frozen=True)
class Budget:
    """What every method gets.

    tokens, batch_tokens, lr: of training, with Adam
    held_out: tokens of the examination; ceilings get at most half as many
    """

    tokens: int = 200_000
    batch_tokens: int = 768
    lr: float = 1.5e-2
    held_out: int = 20_000

    def training(self, method: Method, seed: int) -> Training:
        """Settings of one training run."""
        table = {
            "tokens": self.tokens,
            "batch_tokens": self.batch_tokens,
            "seed": seed,
            "log_every": 10_000,
            "optimizer": {"kind": "adam", "lr": self.lr},
        }
        return Training.from_dict(table | dict(method.training))


@dataclass(frozen=True)
class Row:
    """One method on one world.

    scores: by seed
    matched: by seed, how the wanted L0 was met: "measured" within 2 %, "interpolated" between two runs, or "off"
    pw_mcc: mean over pairs of seeds that share a world
    """

    scores: list[Scores]
    matched: list[str]
    pw_mcc: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON: every metric's values by seed, to four digits."""
        metrics = {
            metric: [None if (value := scores.get(metric)) is None else round(value, 4) for scores in self.scores]
            for metric in self.scores[0]
        }
        return {"metrics": metrics, "matched": self.matched, "pw_mcc": self.pw_mcc and round(self.pw_mcc, 4)}


def at_l0(trials: Sequence[Scores], l0: float) -> tuple[Scores, str]:
    """Scores at an L0: of the nearest trial if within 2 %, else interpolated in log L0 between the two around it.

    Without two around it, the nearest trial's, marked "off".
    """
    found = [_known(trial["l0"]) for trial in trials]
    nearest = min(range(len(trials)), key=lambda i: abs(found[i] - l0))
    if abs(found[nearest] - l0) <= L0_TOLERANCE * l0:
        return trials[nearest], "measured"
    below = [i for i in range(len(trials)) if 0 < found[i] < l0]
    above = [i for i in range(len(trials)) if found[i] > l0]
    if not below or not above:
        return trials[nearest], "off"
    a, b = max(below, key=found.__getitem__), min(above, key=found.__getitem__)
    share = math.log(l0 / found[a]) / math.log(found[b] / found[a])

    def between(metric: str) -> float | None:
        left, right = trials[a].get(metric), trials[b].get(metric)
        return None if left is None or right is None else left + share * (right - left)

    return {metric: between(metric) for metric in trials[a]}, "interpolated"


def compare(
    name: str,
    methods: Mapping[str, Method],
    *,
    seeds: Sequence[tuple[int, int, int]] = SEEDS,
    budget: Budget | None = None,
    l0: float | None = None,
    done: Callable[[int], None] = lambda n: None,
) -> dict[str, Row]:
    """Rows of methods on a named world, at its own L0 unless another is given.

    ``done`` is told of every seed: how many dictionaries have been trained and scored.
    """
    budget, world = budget or Budget(), WORLDS[name]
    wanted = world.l0 if l0 is None else l0
    trials = [(label, recipe) for label, method in methods.items() for recipe in method.recipes(name, world, l0)]
    chosen: dict[str, list[tuple[Scores, str]]] = {label: [] for label in methods}
    rows: dict[str, list[Float[Tensor, "F d"]]] = {label: [] for label in methods}
    for structure, draws, start in seeds:
        built = world.build(structure)
        source = synthetic(built, seed=draws, batch_tokens=budget.batch_tokens)
        training = [budget.training(methods[label], start) for label, _ in trials]
        with silent():
            trained = train([recipe for _, recipe in trials], source, training=training)
        exam = Examination(built, seed=draws, tokens=budget.held_out, trained_on=budget.tokens)
        scores = [exam.score(dictionary) for dictionary in trained]
        for label in methods:
            mine = [i for i, (of, _) in enumerate(trials) if of == label]
            chosen[label].append(at_l0([scores[i] for i in mine], wanted))
            nearest = min(mine, key=lambda i: abs(_known(scores[i]["l0"]) - wanted))
            rows[label].append(feature_directions(trained[nearest]))
        done(len(trials))
    worlds = [structure for structure, _, _ in seeds]
    return {
        label: Row([s for s, _ in chosen[label]], [how for _, how in chosen[label]], _stability(rows[label], worlds))
        for label in methods
    }


def bounds(name: str, *, seeds: Sequence[tuple[int, int, int]] = SEEDS, budget: Budget | None = None) -> dict[str, Row]:
    """Rows of the ceilings and of a random dictionary on a named world."""
    budget, world = budget or Budget(), WORLDS[name]
    found: dict[str, list[Scores]] = {label: [] for label in LIMITS}
    for structure, draws, _ in seeds:
        exam = Examination(world.build(structure), seed=draws, tokens=budget.held_out // 2)
        for label, scores in exam.bounds(world.l0, world.n_features).items():
            found[label].append(scores)
    return {label: Row(scores, ["measured"] * len(seeds), None) for label, scores in found.items()}


def l0_calibration(curve: Sequence[Scores]) -> float:
    """Where F1 peaks, as a multiple of the true L0.

    The vertex of the parabola through the best point and the two beside it; at an end of the curve, that end.
    """
    points = sorted((math.log(_known(s["l0_over_true"])), _known(s["f1"])) for s in curve)
    best = max(range(len(points)), key=lambda i: points[i][1])
    if best in (0, len(points) - 1):
        return math.exp(points[best][0])
    (x0, y0), (x1, y1), (x2, y2) = points[best - 1 : best + 2]
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = (right - left) / (x2 - x0)
    return math.exp((x0 + x1) / 2 - left / (2 * curvature)) if curvature < 0 else math.exp(x1)


def _stability(rows: Sequence[Tensor], worlds: Sequence[int]) -> float | None:
    pairs = [(i, j) for i in range(len(rows)) for j in range(i) if worlds[i] == worlds[j]]
    return sum(pw_mcc(rows[i], rows[j]) for i, j in pairs) / len(pairs) if pairs else None


def _known(value: float | None) -> float:
    assert value is not None, "every dictionary has an L0 and an F1"
    return value
