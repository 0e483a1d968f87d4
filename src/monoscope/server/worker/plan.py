"""Requested edits as edits of the model: strengths in units that compare across features, layers and models.

norm    s * R * u_i        R = sqrt(mean_t |x_t|^2) at the written sites, over the bundle's text
local   s * |x_t| * u_i
maxact  s * M_i            M_i the 99.9th percentile of the feature's activations where it fires
raw     s
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from monoscope.core.errors import DataError, UserError
from monoscope.dictionaries import Dictionary
from monoscope.interventions.operators import Kind, Operator
from monoscope.interventions.spec import Change, changed
from monoscope.models import Edit
from monoscope.server.worker.encoded import check_feature, check_fits
from monoscope.server.worker.shelf import Facts, Model, Shelf, Target

NORM_ROWS, NORM_TOKENS = 16, 64  # of the bundle's text, over which norms are taken


class WhereSpec(BaseModel):
    """See ``wire.steer.WhereIn``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Literal["all"] | list[int]
    generation: Literal["all"] | list[int]


class EditSpec(BaseModel):
    """See ``wire.steer.EditIn``; the unit is settled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    feature: int
    op: Literal["add", "clamp", "floor", "cap", "scale", "ablate"]
    strength: float
    unit: Literal["norm", "local", "maxact", "raw"] | None
    where: WhereSpec


@dataclass(frozen=True)
class Plan:
    """Edits of one request.

    changes: what is asked, its strengths settled; edits: at the tokens it says; everywhere: at all, for the guard
    """

    changes: tuple[Change, ...]
    edits: tuple[Edit, ...]
    everywhere: tuple[Edit, ...]


def planned(shelf: Shelf, model: Model, targets: dict[str, Target], specs: list[EditSpec], n_prompt: int) -> Plan:
    """The edits that are asked for. Edits of one dictionary at the same tokens read the same activations.

    Raises UserError for a feature or place that does not exist, and where a unit has no meaning for a feature.
    """
    changes, dictionaries = [], {}
    for spec in specs:
        target = targets[spec.name]
        dictionary = shelf.dictionary(target)
        check_fits(model, target, dictionary)
        check_feature(dictionary, spec.feature)
        operator = _operator(spec, model, target, dictionary, shelf.facts(target))
        dictionaries[spec.name] = dictionary
        changes.append(
            Change(
                dictionary=spec.name,
                fingerprint=target.fingerprint or dictionary.fingerprint(),
                feature=operator.feature,
                kind=operator.kind,
                value=operator.value,
                prompt="all" if spec.where.prompt == "all" else tuple(spec.where.prompt),
                generation="all" if spec.where.generation == "all" else tuple(spec.where.generation),
                skip_first=target.skip_first,
            )
        )
    return Plan(tuple(changes), changed(changes, dictionaries, n_prompt), changed(changes, dictionaries, None))


def _operator(spec: EditSpec, model: Model, target: Target, dictionary: Dictionary, facts: Facts | None) -> Operator:
    if spec.op == "ablate":
        return Operator(spec.feature, "scale", 0.0)
    if spec.op == "scale":
        return Operator(spec.feature, "scale", spec.strength)
    kind: Kind = spec.op
    if spec.unit == "raw":
        return Operator(spec.feature, kind, spec.strength)
    if spec.unit == "maxact":
        return Operator(spec.feature, kind, spec.strength * _reference(spec, facts))
    if spec.unit == "local":
        return Operator(spec.feature, "share", spec.strength)
    return Operator(spec.feature, "distance", spec.strength * site_norm(model, target, dictionary, facts))


def _reference(spec: EditSpec, facts: Facts | None) -> float:
    value = np.nan if facts is None else float(facts.reference_act[spec.feature])
    if not np.isfinite(value) or value == 0:
        raise UserError(
            f"feature {spec.feature} of {spec.name} never fired in its corpus, so there is no activation to measure "
            "strengths by; use the unit raw, or add with the unit norm"
        )
    return value


def site_norm(model: Model, target: Target, dictionary: Dictionary, facts: Facts | None) -> float:
    """R: root mean square norm at the sites a dictionary writes, behind the first positions, over the bundle's text."""
    key = (target.path, target.bundle)
    if key not in model.norms:
        tokens = calibration(model, facts, NORM_ROWS, NORM_TOKENS)
        if tokens is None:
            raise DataError(
                f"{target.name} has no text to take norms over; give strengths in the unit local, maxact or raw"
            )
        seen = model.lm.read(tokens, [site.of("") for site in dictionary.writes])
        squares = [x[:, target.skip_first :].float().square().sum(-1).mean() for x in seen.values()]
        model.norms[key] = float(torch.stack(squares).mean().sqrt())
    return model.norms[key]


def calibration(model: Model, facts: Facts | None, rows: int, length: int) -> Tensor | None:
    """Some of the bundle's sequences as the model can read them, or more that are shorter; None without any."""
    if facts is None:
        return None
    length = min(length, model.lm.context_length)
    for shorter in (length, length // 2, length // 4):
        tokens = facts.sequences(rows * length // shorter, shorter) if shorter > 1 else np.zeros((0, 0), np.int64)
        if len(tokens) and tokens.max() < model.lm.vocab_size:
            return torch.from_numpy(tokens)
    return None
