"""Where dictionaries start: from the active subspace, and from the model's own MLP."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_text_model import tiny_lm

from monoscope.core.errors import ConfigError
from monoscope.core.site import Site
from monoscope.dictionaries import Recipe
from monoscope.dictionaries.initialize import Initialization, Sample, geometric_median, unit_directions
from monoscope.training import train
from monoscope.training.downstream import origin_of

D, RANK = 128, 6


def low_rank(n: int, seed: int = 0) -> torch.Tensor:
    """Sparse combinations of 64 directions that all lie in 6 of 128 dimensions, and a little noise everywhere."""
    structure, draw = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(D, D, generator=structure)).Q[:RANK]
    directions = torch.nn.functional.normalize(torch.randn(64, RANK, generator=structure), dim=1)
    codes = torch.rand(n, 64, generator=draw) * (torch.rand(n, 64, generator=draw) < 0.05)
    return codes @ directions @ basis + 0.003 * torch.randn(n, D, generator=draw)


def test_active_directions_span_the_subspace_of_the_sample_and_no_more() -> None:
    x = low_rank(2000)
    config = Initialization(directions="active_subspace", subspace=RANK / D)
    directions = unit_directions(200, x, config, torch.Generator().manual_seed(0))
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(200))
    values = torch.linalg.svdvals(directions)
    assert values[RANK - 1] > 1
    assert values[RANK] < 1e-4
    within = torch.linalg.svd(x - x.mean(0)).Vh[:RANK]
    torch.testing.assert_close((directions @ within.T).norm(dim=1), torch.ones(200), rtol=1e-4, atol=1e-4)


def test_a_sample_too_small_for_its_subspace_is_refused() -> None:
    config = Initialization(directions="active_subspace", subspace=0.5)
    with pytest.raises(ConfigError, match="subspace of 64 dimensions needs a sample of more tokens, found 20"):
        unit_directions(10, low_rank(20), config, torch.Generator())


@pytest.mark.slow
def test_features_of_low_rank_activations_live_when_they_start_in_the_active_subspace() -> None:
    x, fresh = low_rank(20_000), low_rank(20_000, seed=1)
    dead = {}
    for start in ("random", "active_subspace"):
        recipe: dict[str, Any] = {
            "wiring": {"kind": "autoencoder", "n_features": 1024},
            "function": {"kind": "topk", "k": 8},
            "terms": {"reconstruction": {"kind": "fvu"}},
            "initialize": {"directions": start, "subspace": RANK / D},
        }
        dictionary = train(recipe, x, tokens=20_000, batch_tokens=256, seed=0, optimizer={"kind": "adam", "lr": 1e-4})
        dead[start] = 1 - dictionary(fresh).acts.fired().float().mean().item()
    assert dead["random"] > 0.5
    assert dead["active_subspace"] < 0.01


def test_a_transcoder_starts_from_what_the_mlp_answers() -> None:
    lm = tiny_lm()
    read, write = Site(1, "mlp_in"), Site(1, "mlp_out")
    tokens = torch.randint(3, 300, (8, 32), generator=torch.Generator().manual_seed(0))
    found = lm.read(tokens, [read, write])
    x, target = (found[site].flatten(0, 1) for site in (read, write))
    origin = origin_of(lm, (read,), (write,))
    assert origin.mlp is not None
    torch.testing.assert_close(origin.mlp(x[:200]), target[:200], rtol=1e-4, atol=1e-6)

    s_in, s_out = 3.0, 50.0
    sample = Sample(x * s_in, target * s_out, torch.tensor([s_in]), torch.tensor([s_out]), origin)
    recipe = Recipe.from_dict(
        {
            "wiring": {"kind": "autoencoder", "n_features": 40},
            "function": {"kind": "topk", "k": 4},
            "initialize": {"directions": "model"},
        }
    )
    dictionary = recipe.build((read,), (write,), {read: 16, write: 16})
    dictionary.initialize_(recipe.initialize, sample, torch.Generator().manual_seed(0))
    directions = torch.nn.functional.normalize(dictionary.W_enc.T, dim=1)
    probes = x.mean(0) + directions * (x - x.mean(0)).norm(dim=1).mean()
    answers = lm.hf.model.layers[1].mlp(probes)
    expected = torch.nn.functional.normalize(answers - answers.mean(0), dim=1)
    torch.testing.assert_close(dictionary.W_dec.detach(), expected, rtol=1e-3, atol=1e-4)


def test_a_start_from_the_mlp_needs_a_transcoder_and_a_model() -> None:
    start = {"function": {"kind": "topk", "k": 4}, "initialize": {"directions": "model"}}
    x = torch.randn(300, 16)
    with pytest.raises(ConfigError, match="asks the language model"):
        train(start, x, tokens=256, batch_tokens=64)
    with pytest.raises(ConfigError, match="starts a transcoder from the MLP between its sites"):
        train(start, x, tokens=256, batch_tokens=64, lm=tiny_lm())


def test_the_geometric_median_is_not_moved_by_an_outlier() -> None:
    points = torch.cat([torch.zeros(9, 3), torch.full((1, 3), 1e6)])
    assert geometric_median(points).norm() < 1  # the mean is 170,000 away
    line = torch.tensor([[0.0], [1.0], [10.0]])
    torch.testing.assert_close(geometric_median(line), torch.tensor([1.0]), rtol=1e-3, atol=1e-3)
