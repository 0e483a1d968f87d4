"""``Examination``: fresh tokens of a world, on which any dictionary, ceiling or floor gets every ground-truth score."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.errors import MismatchError
from monoscope.dictionaries import Dictionary
from monoscope.evals.metrics import Fidelity, Firing
from monoscope.evals.worlds.bounds import Coder, least_squares, linear_threshold, omp, random_rows
from monoscope.evals.worlds.detection import Detection, parents_of
from monoscope.evals.worlds.matching import (
    Match,
    composition,
    hedging,
    leak,
    match,
    mcc,
    splitting,
    uniqueness,
    uniqueness_bounds,
)
from monoscope.harvest import World, synthetic

Scores = Mapping[str, float | None]
"""Metric -> value; None where the world has nothing to measure it on."""

BATCH = 2000
FLOOR_DRAWS = 5  # random dictionaries whose mean is the floor
FREQUENT = 1000  # firings in training, above which a planted feature can fairly be asked for


def coder_of(dictionary: Dictionary) -> Coder:
    """A dictionary as a coder: it looks at activations alone."""

    def code(x: Float[Tensor, "N d"], truth: Acts) -> tuple[Acts, Float[Tensor, "N d"]]:
        step = dictionary(x)
        return step.acts, step.recon

    return code


def feature_directions(dictionary: Dictionary) -> Float[Tensor, "F d"]:
    """What features write. Raises MismatchError where that depends on what is read."""
    rows = dictionary.decoder_rows(dictionary.writes[0])
    if rows is None:
        raise MismatchError("the features of this dictionary have no directions of their own to compare")
    return rows.detach()


class Examination:
    """Held-out tokens of a world, and the scores of what is examined on them.

    tokens: how many; as many again, of another seed, are the sample that thresholds are chosen on
    trained_on: tokens of training, for the scores that count only planted features seen often enough in it
    """

    def __init__(self, world: World, *, seed: int = 0, tokens: int = 50_000, trained_on: int | None = None) -> None:
        self.world, self.seed, self.tokens, self.trained_on = world, seed, tokens, trained_on
        source = synthetic(world, seed=seed, split="held_out", tokens=tokens, batch_tokens=min(BATCH, tokens))
        self.directions, self.bias = source.directions, world.bias_vector()
        self.batches = [source.draw(index) for index in range(-(-tokens // source.batch_tokens))]
        tree = world.tree
        self.children = {} if tree is None else {q: tree.children(q) for level in tree.levels[:-1] for q in level}

    @cached_property
    def sample(self) -> Float[Tensor, "N d"]:
        """Activations to choose thresholds on; never scored."""
        source = synthetic(self.world, seed=self.seed + 1_000_003, split="held_out", batch_tokens=10_000)
        return source.draw(0)[0]

    @cached_property
    def rates(self) -> Float[Tensor, " n"]:
        """Measured share of tokens on which each planted feature is on."""
        return sum((c.values != 0).double().sum(0) for _, c in self.batches) / torch.tensor(self.tokens)

    @property
    def true_l0(self) -> float:
        """Mean number of planted features that are on."""
        return self.rates.sum().item()

    def score(self, dictionary: Dictionary) -> Scores:
        """Every score of a dictionary."""
        return self.score_coder(feature_directions(dictionary), coder_of(dictionary))

    @torch.no_grad()
    def score_coder(self, rows: Float[Tensor, "F d"], coder: Coder, *, tokens: int | None = None) -> Scores:
        """Every score of feature directions and of the activations a coder gives them, on the first ``tokens``."""
        found = match(rows, self.directions)
        fidelity, firing = Fidelity(self.world.d), Firing(rows.norm(dim=1))
        detection = Detection(found, self.children)
        for x, truth in self.batches:
            acts, recon = coder(x, truth)
            fidelity.update(x, recon)
            firing.update(acts)
            detection.update(acts, truth)
            if tokens is not None and fidelity.targets.n >= tokens:
                break
        fit, fired = fidelity.result(), firing.result()
        out: dict[str, float | None] = {
            "ev": fit.ev,
            "l0": fired.l0,
            "l0_over_true": fired.l0 / detection.true_l0(),
            "dead": fired.dead_share,
            "dense_10": fired.dense_10_share,
            "shrinkage": fit.shrinkage,
        }
        return out | self._directions(found, rows) | self._detection(detection) | self._family(found, detection)

    def _directions(self, found: Match, rows: Float[Tensor, "F d"]) -> dict[str, float | None]:
        best = found.cosines.abs().amax(0)
        floors = self.floors(len(rows))
        floor, most = uniqueness_bounds(len(rows), self.world.n_features)
        scores = {
            "mcc": mcc(found),
            "mmcs": best.mean().item(),
            "uniqueness": uniqueness(found),
            "splitting": splitting(found),
            "composition": composition(found) - floors["composition"],
        }
        scores |= {f"recovery_{round(100 * t)}": (best >= t).double().mean().item() for t in (0.7, 0.9, 0.95)}
        scores["mcc_adj"] = adjusted(scores["mcc"], floors["mcc"])
        scores["uniqueness_adj"] = adjusted(scores["uniqueness"], floor, most)
        seen = None if self.trained_on is None else self.rates * self.trained_on >= FREQUENT
        frequent = None if seen is None or not seen.any() else mcc(found, planted=seen)
        return scores | {"mcc_frequent": frequent}

    def _detection(self, detection: Detection) -> dict[str, float | None]:
        nearest, matched = detection.nearest(), detection.matched()
        n_features = len(detection.fires)
        alive = detection.alive
        return {
            "mcc_alive": mcc(detection.found, alive=alive),
            "mcc_signed": detection.signed_mcc(),
            "f1": nearest.f1.mean().item(),
            "f1_alive": nearest.f1[alive].mean().item() if alive.any() else 0.0,
            "precision": nearest.precision.mean().item(),
            "recall": nearest.recall.mean().item(),
            "f1_hungarian": matched.f1.sum().item() / n_features,
            "fidelity": detection.fidelity().mean().item(),
            "support_jaccard": detection.support_jaccard(),
        }

    def _family(self, found: Match, detection: Detection) -> dict[str, float | None]:
        """Scores that need features to have parents or companions."""
        out: dict[str, float | None] = {"hedging": hedging(found, self.directions).mean().item()}
        pairs, n = self.world.n_pairs, self.world.n_features
        if pairs:
            start = 0
            for group in self.world.companions:
                mains = torch.arange(start, start + group.pairs)
                other = torch.full((n,), -1)
                other[mains], other[mains + pairs] = mains + pairs, mains
                leaning = hedging(found, self.directions, other)
                name = "hedging_positive" if group.p_on > group.p_off else "hedging_negative"
                out[name] = leaning.mean().item() if len(leaning) else None
                start += group.pairs
        tree = self.world.tree
        if tree is not None:
            rates = detection.absorption()
            out["leak"] = leak(found, self.directions, parents_of(self.children, n))
            out["absorption"] = _mean(rates)
            levels = torch.tensor([next(i for i, level in enumerate(tree.levels) if q in level) for q in self.children])
            for level in range(tree.depth):
                out[f"absorption_level_{level}"] = _mean(rates[levels == level])
        return out

    def floors(self, n_features: int) -> dict[str, float]:
        """MCC and composition of random unit rows, means over five draws."""
        if n_features not in self._floors:
            generator = torch.Generator().manual_seed(self.seed)
            found = [
                match(random_rows(n_features, self.world.d, generator), self.directions) for _ in range(FLOOR_DRAWS)
            ]
            self._floors[n_features] = {
                "mcc": sum(map(mcc, found)) / FLOOR_DRAWS,
                "composition": sum(map(composition, found)) / FLOOR_DRAWS,
            }
        return self._floors[n_features]

    @cached_property
    def _floors(self) -> dict[int, dict[str, float]]:
        return {}

    def bounds(self, l0: float, n_features: int, *, tokens: int = 20_000) -> dict[str, Scores]:
        """Scores of the ceilings and of a random dictionary, at an L0 where they have one to choose.

        The linear encoder has ``n_features`` directions too, the commonest ones; pursuit and least squares have all.
        """
        common = self.directions[self.rates.topk(min(n_features, self.world.n_features)).indices]
        rows = random_rows(n_features, self.world.d, torch.Generator().manual_seed(self.seed))
        planted, bias, signed = self.directions, self.bias, self.world.signed
        coders = {
            "true support": (planted, least_squares(planted, bias)),
            "pursuit at the true L0": (planted, omp(planted, bias)),
            "linear encoder": (common, linear_threshold(common, bias, self.sample, l0, signed=signed)),
            "random": (rows, linear_threshold(rows, bias, self.sample, l0, signed=signed)),
        }
        return {name: self.score_coder(*pair, tokens=tokens) for name, pair in coders.items()}


def adjusted(score: float, floor: float, ceiling: float = 1.0) -> float:
    """Where a score lies between its floor (0) and its ceiling (1)."""
    return (score - floor) / (ceiling - floor)


def _mean(values: Tensor) -> float | None:
    known = values[~values.isnan()]
    return known.mean().item() if len(known) else None
