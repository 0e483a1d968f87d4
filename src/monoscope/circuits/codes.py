"""Discrete codes: which attention heads take part in a behavior, from one small dictionary over all heads' outputs.

    code(e, h) = argmax_f acts[e, h, f], or NONE where no feature fires        e an example, h a head of any layer
    P_h, N_h   = the codes of head h on positive and on negative examples
    node score   |P_h minus N_h|: how many codes the head uses for the behavior alone
    edge score   number of pairs (code of h1, code of h2) that occur together on positives and on no negative

Positives are prompts on which the model behaves, negatives the same prompts corrupted so that it does not. A handful of
examples trains the dictionary. Scores grow with their number and rank heads; they are no probabilities.

Source: O'Neill, Bui 2024 (arXiv:2405.12522). Its codes of rows where nothing fires are code 0; here they are a code of
their own, which never counts as one the behavior uses.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monoscope.core.config import Config
from monoscope.core.errors import DataError
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.models import LanguageModel
from monoscope.training import train

NONE = -1
"""The code of a head's output for which no feature fires."""


class Codes(Config):
    """The dictionary of codes; the defaults are the source's, its penalty in the units of our terms."""

    n_features: int = 200
    l1: float = 0.02
    steps: int = 500
    lr: float = 1e-3
    seed: int = 0


@torch.no_grad()
def head_outputs(
    lm: LanguageModel, tokens: Int[Tensor, "example pos"], mask: Bool[Tensor, "example pos"] | None = None
) -> Float[Tensor, "example head d"]:
    """What each head writes into the residual stream at the last token of each example, layer by layer."""
    sites = [Site(layer, "z") for layer in range(lm.n_layers)]
    found = lm.read(tokens, sites, mask)
    last = (
        torch.full((len(tokens),), tokens.shape[1] - 1)
        if mask is None
        else mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    )
    rows = torch.arange(len(tokens))
    written = []
    for layer, site in enumerate(sites):
        W_O = lm.attention(layer).W_O
        z = found[site][rows, last].unflatten(-1, W_O.shape[:2])
        written.append(torch.einsum("ehv,hvd->ehd", z, W_O.to(z)))
    return torch.cat(written, dim=1)


def head_codes(
    positive: Float[Tensor, "n head d"], negative: Float[Tensor, "m head d"], config: Codes | None = None
) -> tuple[Int[Tensor, "n head"], Int[Tensor, "m head"]]:
    """Codes of every head on positive and negative examples, from a dictionary trained on both.

    Loss: the squared error per entry, and ``l1`` times the sum of a row's activations. Full batches, Adam.
    Raises DataError for examples that are not of the same heads.
    """
    config = config or Codes()
    _check_heads(positive, negative)
    rows = torch.cat([positive, negative]).flatten(0, 1)
    d = rows.shape[1]
    recipe = {
        "wiring": {"kind": "autoencoder", "n_features": config.n_features},
        "function": {"kind": "relu"},
        "terms": {
            "reconstruction": {"kind": "squared_error", "weight": 1 / d},
            "sparsity": {"kind": "l1", "weight": config.l1},
        },
    }
    dictionary = train(
        recipe,
        rows,
        tokens=config.steps * len(rows),
        batch_tokens=len(rows),
        seed=config.seed,
        optimizer={"kind": "adam", "lr": config.lr},
        schedules={},
    )
    return _codes(dictionary, positive), _codes(dictionary, negative)


def _codes(dictionary: Dictionary, outputs: Float[Tensor, "n head d"]) -> Int[Tensor, "n head"]:
    largest, code = dictionary.encode(outputs).dense().max(dim=-1)
    return torch.where(largest > 0, code, NONE)


def node_scores(positive: Int[Tensor, "n head"], negative: Int[Tensor, "m head"]) -> Int[Tensor, " head"]:
    """Number of codes that each head uses on positives and on no negative."""
    only = [
        set(ours.tolist()) - set(theirs.tolist()) - {NONE} for ours, theirs in zip(positive.T, negative.T, strict=True)
    ]
    return torch.tensor([len(codes) for codes in only])


def edge_scores(positive: Int[Tensor, "n head"], negative: Int[Tensor, "m head"]) -> Int[Tensor, "head head"]:
    """Number of pairs of codes that two heads use together on positives and on no negative; 0 on the diagonal."""
    n_heads = positive.shape[1]
    scores = torch.zeros(n_heads, n_heads, dtype=torch.int64)
    for first in range(n_heads):
        for second in range(first + 1, n_heads):
            ours, theirs = (_pairs(codes[:, [first, second]]) for codes in (positive, negative))
            scores[first, second] = scores[second, first] = len(ours - theirs)
    return scores


def _pairs(codes: Int[Tensor, "n two"]) -> set[tuple[int, int]]:
    return {(a, b) for a, b in codes.tolist() if NONE not in (a, b)}


def probe_scores(positive: Float[Tensor, "n head d"], negative: Float[Tensor, "m head d"]) -> Float[Tensor, " head"]:
    """How well a linear probe tells positives from negatives by each head alone: the baseline that codes have to beat.

    Share of examples that ridge regression on all others puts on the right side (leave-one-out, in closed form).
    """
    _check_heads(positive, negative)
    labels = torch.cat([torch.ones(len(positive)), -torch.ones(len(negative))]).double()
    scores = []
    for outputs in torch.cat([positive, negative]).double().unbind(1):
        x = outputs - outputs.mean(0)
        kernel = x @ x.T
        ridge = kernel.diagonal().mean().clamp_min(1e-12) * torch.eye(len(x), dtype=torch.double)
        smoother = kernel @ torch.linalg.inv(kernel + ridge) + 1 / len(x)
        left_out = (smoother @ labels - smoother.diagonal() * labels) / (1 - smoother.diagonal())
        scores.append((left_out.sign() == labels).double().mean())
    return torch.stack(scores)


def _check_heads(positive: Tensor, negative: Tensor) -> None:
    if positive.shape[1:] != negative.shape[1:] or not len(positive) or not len(negative):
        raise DataError(
            f"positives and negatives are [example, head, d] of the same heads, found {list(positive.shape)} and "
            f"{list(negative.shape)}"
        )
