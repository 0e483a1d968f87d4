"""Planted dictionaries are found: every trained method against a world whose directions are known."""

from __future__ import annotations

from typing import Any

import pytest

from monoscope.evals import mean_max_cosine, recovery
from monoscope.evals.worlds.matching import match, mcc
from monoscope.harvest import World, synthetic
from monoscope.training import train

ORTHOGONAL = World(n_features=32, d=32, orthogonal=True, p_max=0.06)
SUPERPOSED = World(n_features=128, d=32, p_max=0.02)  # four directions to a dimension, 2.6 of them at a time


def recipes(n_features: int, l0: float, l1: float) -> dict[str, dict[str, Any]]:
    """The methods, at the true L0 where they let one choose it."""
    wiring = {"kind": "autoencoder", "n_features": n_features}
    squared = {"reconstruction": {"kind": "squared_error"}}
    hard = {"reconstruction": {"kind": "fvu"}, "revive": {"kind": "auxk"}}
    return {
        "topk": {"wiring": wiring, "function": {"kind": "topk", "k": round(l0 + 0.5)}, "terms": hard},
        "batch_topk": {"wiring": wiring, "function": {"kind": "batch_topk", "k": l0}, "terms": hard},
        "jumprelu": {
            "wiring": wiring,
            "function": {"kind": "jumprelu", "calibrate_l0": l0},
            "terms": hard | {"sparsity": {"kind": "target_l0", "target": l0}},
        },
        "relu": {
            "wiring": wiring,
            "function": {"kind": "relu"},
            "terms": squared | {"sparsity": {"kind": "l1", "weight": l1}},
        },
        "gated": {
            "wiring": wiring,
            "function": {"kind": "gated"},
            "terms": squared | {"sparsity": {"kind": "gate_l1", "weight": 3 * l1}, "gate": {"kind": "gate_aux"}},
        },
        # Activations here are near 4, where tanh of four times as much is flat: c = 0.3 asks for the same slope.
        "tanh": {
            "wiring": wiring,
            "function": {"kind": "jumprelu", "calibrate_l0": l0},
            "terms": squared | {"sparsity": {"kind": "tanh", "weight": 4 * l1, "c": 0.3}, "near": {"kind": "preact"}},
        },
        "tanh_quad": {
            "wiring": wiring,
            "function": {"kind": "jumprelu", "calibrate_l0": l0},
            "terms": squared | {"sparsity": {"kind": "tanh_quad", "weight": 0.3 * l1, "c": 0.3}},
        },
        "abs_topk": {"wiring": wiring, "function": {"kind": "abs_topk", "k": round(l0 + 0.5)}, "terms": hard},
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "tokens", "methods", "at_least"),
    [
        pytest.param(
            ORTHOGONAL,
            400_000,
            ("topk", "batch_topk", "jumprelu", "relu", "gated", "tanh", "tanh_quad"),
            0.95,
            id="orthogonal",
        ),
        # L1 shrinks and tilts directions that overlap, so ReLU is held to the orthogonal world alone.
        pytest.param(SUPERPOSED, 1_200_000, ("topk", "batch_topk", "jumprelu"), 0.9, id="superposed"),
    ],
)
def test_planted_directions_are_recovered(world: World, tokens: int, methods: tuple[str, ...], at_least: float) -> None:
    source = synthetic(world, batch_tokens=1024)
    l0 = float(source.probabilities.sum())
    chosen = recipes(world.n_features, l0, l1=1.0)
    found = train(
        [chosen[name] for name in methods],
        source,
        tokens=tokens,
        batch_tokens=1024,
        optimizer={"kind": "adam", "lr": 1e-2},
    )
    scores = {
        name: (mean_max_cosine(d.W_dec, source.directions), recovery(d.W_dec, source.directions))
        for name, d in zip(methods, found, strict=True)
    }
    assert all(cosine > at_least for cosine, _ in scores.values()), scores
    fresh, _ = synthetic(world, seed=99, batch_tokens=4096).draw(0)
    for name, dictionary in zip(methods, found, strict=True):
        step = dictionary(fresh)
        assert 0.5 * l0 < step.acts.l0().float().mean() < 2.5 * l0, (name, scores)


@pytest.mark.slow
def test_signed_coefficients_need_signed_features_or_twice_as_many() -> None:
    source = synthetic(ORTHOGONAL.model_copy(update={"signed": True}), batch_tokens=1024)
    n, l0 = ORTHOGONAL.n_features, float(source.probabilities.sum())
    kinds = [("abs_topk", n), ("topk", n), ("topk", 2 * n)]
    found = train(
        [recipes(width, l0, 1.0)[kind] for kind, width in kinds],
        source,
        tokens=400_000,
        batch_tokens=1024,
        optimizer={"kind": "adam", "lr": 1e-2},
    )
    scores = [mcc(match(d.get_parameter("W_dec"), source.directions)) for d in found]
    signed, one_sided, twice_as_wide = scores
    assert signed > 0.95, scores
    assert one_sided < 0.9, scores
    assert twice_as_wide > 0.95, scores
