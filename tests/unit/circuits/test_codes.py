"""Discrete codes find the heads whose outputs depend on the class, and no others."""

from __future__ import annotations

import pytest
import torch
from tiny_text_model import tiny_lm

from monoscope.circuits.codes import NONE, Codes, edge_scores, head_codes, head_outputs, node_scores, probe_scores
from monoscope.core.errors import DataError
from monoscope.core.site import Site
from monoscope.demo import MODEL
from monoscope.models import LanguageModel

HEADS, D, INVOLVED = 12, 16, (1, 4, 9)
QUICK = Codes(n_features=64, steps=200, lr=5e-3)


def auc(scores: torch.Tensor, involved: torch.Tensor | None = None) -> float:
    """Probability that an involved head scores higher than another, ties counting half."""
    if involved is None:
        involved = torch.isin(torch.arange(HEADS), torch.tensor(INVOLVED))
    difference = scores[involved].double()[:, None] - scores[~involved].double()[None]
    return ((difference > 0).double() + 0.5 * (difference == 0).double()).mean().item()


def world(n: int = 10, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Heads that each say one of two things of their own; the involved ones say a third on positives, together."""
    structure, draw = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    words = torch.nn.functional.normalize(torch.randn(HEADS, 3, D, generator=structure), dim=-1) * 4
    spoken = torch.randint(2, (2 * n, HEADS), generator=draw)
    spoken[:n, list(INVOLVED)] = 2
    outputs = words[torch.arange(HEADS), spoken] + 0.02 * torch.randn(2 * n, HEADS, D, generator=draw)
    return outputs[:n], outputs[n:]


@pytest.fixture(scope="module")
def codes() -> tuple[torch.Tensor, torch.Tensor]:
    return head_codes(*world(), QUICK)


def test_nodes_of_the_planted_circuit_score_highest(codes: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert auc(node_scores(*codes)) == 1.0


def test_edges_between_involved_heads_score_highest(codes: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores = edge_scores(*codes)
    assert torch.equal(scores, scores.T)
    assert not scores.diagonal().any()
    assert auc(scores.sum(1)) == 1.0


def test_negatives_that_are_the_positives_leave_nothing(codes: tuple[torch.Tensor, torch.Tensor]) -> None:
    positive, _ = codes
    assert not node_scores(positive, positive).any()
    assert not edge_scores(positive, positive).any()


def test_shuffled_labels_score_by_chance(codes: tuple[torch.Tensor, torch.Tensor]) -> None:
    both = torch.cat(codes)
    values = []
    for seed in range(40):
        order = torch.randperm(len(both), generator=torch.Generator().manual_seed(seed))
        values.append(auc(node_scores(both[order[:10]], both[order[10:]])))
    assert abs(torch.tensor(values).mean().item() - 0.5) < 0.15


def test_nothing_fired_is_no_code_of_the_behavior() -> None:
    silent, spoken = torch.full((3, 2), NONE), torch.zeros(3, 2, dtype=torch.int64)
    assert not node_scores(silent, spoken).any()
    assert not edge_scores(silent, spoken).any()
    assert node_scores(spoken, silent).tolist() == [1, 1]
    assert edge_scores(spoken, silent).tolist() == [[0, 1], [1, 0]]


def test_a_linear_probe_finds_the_planted_heads_too() -> None:
    scores = probe_scores(*world())
    assert scores[list(INVOLVED)].min() == 1.0
    rest = scores[[head for head in range(HEADS) if head not in INVOLVED]]
    assert abs(rest.mean() - 0.5) < 0.2


def test_leave_one_out_is_what_leaving_one_out_gives() -> None:
    positive, negative = world(n=5)
    noisy = positive + 3 * torch.randn(positive.shape, generator=torch.Generator().manual_seed(1))
    x, labels = torch.cat([noisy, negative])[:, 0].double(), torch.cat([torch.ones(5), -torch.ones(5)]).double()
    x = x - x.mean(0)
    ridge = (x @ x.T).diagonal().mean()
    right = 0
    for i in range(10):
        rest = [j for j in range(10) if j != i]
        design = torch.cat([x, torch.ones(10, 1).double()], dim=1)[rest]
        penalty = ridge * torch.eye(17).double()
        penalty[-1, -1] = 0
        solution = torch.linalg.solve(design.T @ design + penalty, design.T @ labels[rest])
        right += int(torch.sign(x[i] @ solution[:-1] + solution[-1]) == labels[i])
    assert probe_scores(noisy, negative)[0].item() == pytest.approx(right / 10)


def test_heads_outputs_sum_to_what_attention_writes() -> None:
    lm = tiny_lm()
    tokens = torch.randint(3, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, 6:] = False
    outputs = head_outputs(lm, tokens, mask)
    assert outputs.shape == (3, 4, 16)
    for layer in range(2):
        site = Site(layer, "attn_out")
        written = lm.read(tokens, [site], mask)[site][torch.arange(3), torch.tensor([8, 5, 8])]
        torch.testing.assert_close(outputs[:, 2 * layer : 2 * layer + 2].sum(1), written, rtol=1e-4, atol=1e-6)


def test_a_side_without_examples_is_refused() -> None:
    positive, negative = world()
    with pytest.raises(DataError, match="of the same heads"):
        head_codes(positive, negative[:0])


@pytest.mark.slow
def test_codes_rank_the_bundled_models_induction_heads_above_others() -> None:
    lm = LanguageModel.from_pretrained(MODEL)
    generator = torch.Generator().manual_seed(0)
    first, other = (torch.randint(200, 4000, (10, 24), generator=generator) for _ in range(2))
    bos = torch.full((10, 1), lm.bos_token_id)
    repeated, unrepeated = torch.cat([bos, first, first[:, :12]], 1), torch.cat([bos, first, other[:, :12]], 1)

    lm.hf.set_attn_implementation("eager")
    queries = torch.arange(25, 37)
    looks_back = []
    for layer in range(lm.n_layers):
        site = Site(layer, "pattern")
        pattern = lm.read(repeated, [site])[site]
        looks_back.append(pattern[:, :, queries, queries - 23].mean((0, 2)))
    lm.hf.set_attn_implementation("sdpa")
    is_induction = torch.cat(looks_back) > 0.3
    assert 2 <= is_induction.sum() <= 6

    positive, negative = head_outputs(lm, repeated), head_outputs(lm, unrepeated)
    found = node_scores(*head_codes(positive, negative))
    assert auc(found, is_induction) > 0.75
