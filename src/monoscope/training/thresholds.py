"""``to_jumprelu``: a trained dictionary whose features fire above thresholds, whatever else fires.

    one threshold         the (l0 M + 1)-th largest score of M held-out tokens, so that l0 features fire per token
    one of each feature   the (n_f + 1)-th largest score of feature f, which fires on n_f of the M tokens as it is

each taken halfway to the score before it. Scores are pre-activations, times decoder norms where the wiring says so.

Source: Bussmann, Leask, Nanda 2024 (arXiv:2412.06410), section 3, for a whole stream at once. Shapes: F features.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monoscope.core.errors import ConfigError, DataError
from monoscope.dictionaries.base import Dictionary
from monoscope.dictionaries.step import Step
from monoscope.dictionaries.variants import JumpReLU
from monoscope.harvest.source import ActivationSource

ENTRIES = 2**24  # scores in memory at once


@torch.no_grad()
def to_jumprelu(
    dictionary: Dictionary,
    source: ActivationSource,
    *,
    l0: float | None = None,
    per_feature: bool = False,
    tokens: int = 20_000,
) -> Dictionary:
    """A copy of a dictionary with a JumpReLU in place of TopK, BatchTopK or GroupMax.

    source: held-out activations, in the units the dictionary reads; its position is afterwards what it was
    l0: mean number of features per token; by default as many as fire in the dictionary as it is
    per_feature: a threshold for each feature, which then fires as often as before; else one for all
    tokens: how many to look at, rounded up to a batch

    Raises ConfigError for a function without a selection, or whose activations may be negative, DataError for a source
    without activations.
    """
    twin = dictionary.frozen()
    kind = twin.activation.config.to_dict()["kind"]
    if twin.activation.is_signed or twin.activation.selection is None:
        reason = "whose activations may be negative" if twin.activation.is_signed else "which selects nothing"
        raise ConfigError(f"thresholds take the place of a selection of positive scores, found {kind!r}, {reason}")
    if per_feature and l0 is not None:
        raise ConfigError("with a threshold for each feature, each fires as often as before: leave l0 out")
    if l0 is not None and not 0 < l0 <= twin.n_features:
        raise ConfigError(f"l0 is {l0:g}, not between 0 and the dictionary's {twin.n_features} features")
    steps = _steps(twin, source, tokens)
    counts = torch.zeros(twin.n_features, dtype=torch.long)
    for step in steps:
        counts += (step.acts.dense() != 0).flatten(0, -2).sum(0).cpu()
    n_tokens = sum(step.n_tokens for step in steps)
    if per_feature:
        threshold = torch.cat([_each(scores, counts[part]) for part, scores in _scores(steps)])
    else:
        n_kept = int(counts.sum()) if l0 is None else round(l0 * n_tokens)
        threshold = _shared(steps, n_kept).expand(twin.n_features).clone()
    device = next(twin.parameters()).device
    twin.activation = JumpReLU(JumpReLU.Config(), threshold.to(device)).eval().requires_grad_(False)
    kept = counts.sum().item() / n_tokens if l0 is None else l0
    twin.provenance = {**twin.provenance, "thresholds": {"from": kind, "l0": kept, "tokens": n_tokens}}
    return twin


def _steps(dictionary: Dictionary, source: ActivationSource, tokens: int) -> list[Step]:
    position, steps = source.state_dict(), []
    for batch in source:
        steps.append(dictionary(*dictionary.gather(batch), batch.mask))
        if sum(step.n_tokens for step in steps) >= tokens:
            break
    source.load_state_dict(position)
    if not sum(step.n_tokens for step in steps):
        raise DataError("the source holds no activations that count")
    return steps


def _scores(steps: list[Step]) -> Iterator[tuple[slice, Float[Tensor, "n features"]]]:
    """Scores of all tokens, some features at a time; with a gate at each site, a token has a row for each."""
    dictionary = steps[0].dictionary
    norm, n_rows = dictionary.score_norm(), sum(step.acts.values[..., 0].numel() for step in steps)
    for part in torch.arange(dictionary.n_features, device=steps[0].x.device).split(max(1, ENTRIES // n_rows)):
        scale = 1.0 if norm is None else norm[..., part]
        yield (
            slice(int(part[0]), int(part[-1]) + 1),
            torch.cat([(step.preacts_of(part) * scale).flatten(0, -2) for step in steps]),
        )


def _shared(steps: list[Step], n_kept: int) -> Float[Tensor, ""]:
    """Between the scores numbers n_kept and n_kept + 1 of all, counting from the largest."""
    largest = torch.empty(0)
    for _, scores in _scores(steps):
        largest = torch.cat([largest.to(scores), scores.flatten()])
        largest = largest.topk(min(n_kept + 1, len(largest))).values
    return largest[max(n_kept - 1, 0) : n_kept + 1].mean().clamp_min(0.0)


def _each(scores: Float[Tensor, "n features"], n_kept: Int[Tensor, " features"]) -> Float[Tensor, " features"]:
    """The same of every feature's own scores."""
    bounds = torch.cat([scores.sort(0, descending=True).values, scores.new_zeros(1, scores.shape[1])])
    n_kept = n_kept.to(scores.device)
    around = bounds.gather(0, torch.stack([(n_kept - 1).clamp_min(0), n_kept]))
    return around.mean(0).clamp_min(0.0)
