"""Steering as a file: which features are changed how and where, and the prompt and sampling it was seen with.

    schema_version = 1
    model = "..."
    tokens = [...]                 the prompt
    max_new_tokens, temperature, top_k, seed

    [[changes]]
    dictionary = "demo"            a name, and the weights it stands for
    fingerprint = "..."
    feature, kind, value           an Operator: an activation, length, share or factor, no unit left to settle
    prompt, generation             a Where: "all", or places
    skip_first

What strengths come to is settled when the file is made, so that it means the same without the text they were measured
on. Nothing in the file is code, and dictionaries are given by whoever replays it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from monoscope.core.config import Config
from monoscope.core.errors import MismatchError, UserError
from monoscope.dictionaries import Dictionary
from monoscope.interventions.edits import Edits
from monoscope.interventions.operators import Kind, Operator, operate
from monoscope.interventions.where import Where, where
from monoscope.models import LanguageModel

Places = Literal["all"] | tuple[int, ...]


class Change(Config):
    """One change of one feature of a dictionary, at some tokens."""

    dictionary: str
    fingerprint: str
    feature: Annotated[int, Field(ge=0)]
    kind: Kind
    value: Annotated[float, Field(allow_inf_nan=False)]
    prompt: Places = "all"
    generation: Places = "all"
    skip_first: Annotated[int, Field(ge=0)] = 1


class Steering(Config):
    """Changes, and the generation they were seen with. See the module."""

    schema_version: Literal[1] = 1
    model: str
    tokens: Annotated[tuple[int, ...], Field(min_length=1)]
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    changes: Annotated[tuple[Change, ...], Field(min_length=1)]

    def edits(self, dictionaries: Mapping[str, Dictionary], n_prompt: int | None = None) -> Edits:
        """The edits, for rows whose first ``n_prompt`` tokens are the prompt: as many as the file's, if not given.

        Raises UserError for a dictionary that is missing, MismatchError for one with other weights.
        """
        for name, fingerprint in {change.dictionary: change.fingerprint for change in self.changes}.items():
            if name not in dictionaries:
                raise UserError(f"no dictionary {name!r} is given; found {', '.join(dictionaries) or 'none'}")
            if (found := dictionaries[name].fingerprint()) != fingerprint:
                raise MismatchError(
                    f"the dictionary {name!r} has other weights than the one this was made with: "
                    f"fingerprint {found[:12]}, expected {fingerprint[:12]}"
                )
        return changed(self.changes, dictionaries, len(self.tokens) if n_prompt is None else n_prompt)

    def replay(self, lm: LanguageModel, dictionaries: Mapping[str, Dictionary]) -> Int[Tensor, "1 longer"]:
        """The file's prompt and its continuation under the edits."""
        with lm.edit(*self.edits(dictionaries)):
            return lm.generate(
                torch.tensor([self.tokens]),
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                top_k=self.top_k,
                seed=self.seed,
            )


def changed(changes: Sequence[Change], dictionaries: Mapping[str, Dictionary], n_prompt: int | None) -> Edits:
    """Edits of changes; those of one dictionary at the same tokens read the same activations.

    ``n_prompt`` None: at all tokens, whatever the changes say.
    """
    groups: dict[tuple[str, Where, int], list[Operator]] = defaultdict(list)
    for change in changes:
        selection = Where(change.prompt, change.generation)
        operator = Operator(change.feature, change.kind, change.value)
        groups[change.dictionary, selection, change.skip_first].append(operator)
    edits: Edits = ()
    for (name, selection, skip_first), operators in groups.items():
        own = operate(dictionaries[name], operators, skip_first=skip_first)
        edits += own if n_prompt is None else where(own, selection, n_prompt)
    return edits
