"""Readings of crosscoders: emergence, decay, rotation, shares, and the check before a feature is called exclusive."""

from __future__ import annotations

import torch

from monoscope.core.acts import Acts
from monoscope.dictionaries.trajectories import (
    decay,
    emergence,
    latent_scaling,
    norm_trajectory,
    rotation,
    two_model_share,
)

NORMS = torch.tensor([[0.0, 1.0, 4.0, 0.0], [0.4, 1.0, 2.0, 0.0], [1.0, 1.0, 1.9, 0.0], [2.0, 1.0, 3.0, 0.0]])


def test_trajectories_are_relative_to_the_largest_norm() -> None:
    expected = torch.tensor([[0.0, 1, 1, 0], [0.2, 1, 0.5, 0], [0.5, 1, 0.475, 0], [1, 1, 0.75, 0]])
    torch.testing.assert_close(norm_trajectory(NORMS), expected)


def test_emergence_and_decay() -> None:
    assert emergence(NORMS).tolist() == [2, 0, 0, 0]
    assert decay(NORMS)[:3].tolist() == [4, 4, 2]
    assert emergence(NORMS, present=0.9)[0] == 3


def test_rotation_is_the_cosine_of_directions() -> None:
    angles = torch.tensor([0.0, 0.3, 1.0])
    turned = torch.stack([angles.cos(), angles.sin()], dim=-1)[:, None] * torch.tensor([1.0, 5.0, 0.2])[:, None, None]
    torch.testing.assert_close(rotation(turned)[0], (angles[:, None] - angles).cos())
    assert (rotation(torch.zeros(2, 3, 4)) == 0).all()


def test_share_of_two_models() -> None:
    assert two_model_share(torch.tensor([[1.0, 0.0, 2.0], [1.0, 3.0, 0.0]])).tolist() == [0.5, 1.0, 0.0]


def test_a_feature_shrunk_away_is_told_from_an_exclusive_one() -> None:
    """Both have norm 0 at the first model; the data there hold 0.7 of the one and nothing of the other."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q[:2]
    acts = torch.rand(500, 2, generator=generator) * (torch.rand(500, 2, generator=generator) < 0.3)
    x = torch.stack([(acts * torch.tensor([0.7, 0.0])) @ directions, acts @ directions], dim=1)
    W_dec = torch.stack([torch.zeros_like(directions), 0.9 * directions])
    recon = torch.stack([acts @ rows for rows in W_dec], dim=1)
    found = latent_scaling(Acts(acts, 2), x - recon, W_dec, own=1)
    torch.testing.assert_close(found * 0.9, torch.tensor([[0.7, 0.0], [1.0, 1.0]]), rtol=0.02, atol=0.02)
