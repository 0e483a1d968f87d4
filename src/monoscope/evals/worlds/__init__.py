"""Worlds whose truth is known: what dictionaries recover of it, beside what could be and what comes for nothing."""

from monoscope.evals.worlds.detection import Detection
from monoscope.evals.worlds.matching import match, mean_max_cosine, pw_mcc, recovery
from monoscope.evals.worlds.named import (
    WORLDS,
    NamedWorld,
    correlated_world,
    hierarchical_world,
    narrow_world,
    noisy_world,
    orthogonal_world,
    public_world,
    signed_world,
    superposition_world,
)
from monoscope.evals.worlds.score import Examination

__all__ = [
    "WORLDS",
    "Detection",
    "Examination",
    "NamedWorld",
    "correlated_world",
    "hierarchical_world",
    "match",
    "mean_max_cosine",
    "narrow_world",
    "noisy_world",
    "orthogonal_world",
    "public_world",
    "pw_mcc",
    "recovery",
    "signed_world",
    "superposition_world",
]
