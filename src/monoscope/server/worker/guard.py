"""The guard: whether a model under edits still writes coherently.

perplexity_ratio = exp(CE_steered - CE_base) <= 1.10     on text of the bundle, the edits at every token
repeated 4-grams <= those of the baseline + 0.02, or 0.5 at most
mean log probability of the steered text without edits >= that of the baseline - 1 nat a token
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from monoscope.server.worker.plan import Plan, calibration
from monoscope.server.worker.process import Context
from monoscope.server.worker.shelf import Model, Target

ROWS, TOKENS, ROWS_AT_ONCE = 8, 128, 2
LIMIT, DROP, MORE_REPEATED, DEGENERATE = 1.10, 1.0, 0.02, 0.5


def guard(
    context: Context,
    model: Model,
    plan: Plan,
    targets: dict[str, Target],
    steered: Sequence[tuple[int, float, float]],
    baseline: Sequence[tuple[int, float]],
    is_asked: bool,
) -> dict[str, Any]:
    """The three measurements. ``steered``: token, log probability under edits, and without."""
    ratio, n_tokens = _ratio(context, model, plan, targets) if is_asked else (None, 0)
    repeated, before = (_repeated([item[0] for item in text]) for text in (steered, baseline))
    drop = _mean([item[1] for item in baseline]) - _mean([item[2] for item in steered])
    reasons = []
    if ratio is not None and not ratio <= LIMIT:
        reasons.append(f"ordinary text is {ratio:.3g} times as perplexing under the edits; the limit is {LIMIT:.2f}")
    if repeated > max(DEGENERATE, before + MORE_REPEATED):
        reasons.append(f"{repeated:.0%} of the steered text repeats itself, and {before:.0%} of the baseline")
    if drop > DROP:
        reasons.append(f"the steered text is {drop:.2g} nats a token less likely without edits; the limit is {DROP:g}")
    return {
        "perplexity_ratio": ratio,
        "limit": LIMIT,
        "n_tokens": n_tokens,
        "repeated": repeated,
        "baseline_repeated": before,
        "logprob_drop": drop,
        "ok": not reasons,
        "reasons": reasons,
    }


def _ratio(context: Context, model: Model, plan: Plan, targets: dict[str, Target]) -> tuple[float | None, int]:
    facts = context.shelf.facts(next(iter(targets.values())))
    tokens = calibration(model, facts, ROWS, TOKENS)
    if tokens is None:
        return None, 0
    tokens = tokens.to(model.lm.device)
    key = tuple(tokens.shape), int(tokens.sum())
    if key not in model.losses:
        model.losses[key] = _loss(context, model, tokens)
    with model.lm.edit(*plan.everywhere):
        under = _loss(context, model, tokens)
    return math.exp(min(under - model.losses[key], 700.0)), tokens.shape[0] * (tokens.shape[1] - 1)


def _loss(context: Context, model: Model, tokens: Tensor) -> float:
    """Mean cross-entropy in nats."""
    total = 0.0
    for rows in tokens.split(ROWS_AT_ONCE):
        context.check()
        logits = model.lm.logits(rows)[:, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum"))
    return total / (tokens.shape[0] * (tokens.shape[1] - 1))


def _repeated(tokens: Sequence[int]) -> float:
    """Share of 4-grams that occurred before."""
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
