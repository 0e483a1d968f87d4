"""Converting: a dictionary from any layout to another, with a receipt and a comparison of what came out.

The result is read back from its files, as anybody would, and compared with what went in: which features fire, what they
contribute, and the reconstruction; on activations of the model, or for want of them on random inputs, which is said.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import DataError, OutputError
from monoscope.core.io import output_directory, write_json
from monoscope.dictionaries import Dictionary
from monoscope.formats.check import Activations, Check, check, random_inputs, sample
from monoscope.formats.layout import Receipt
from monoscope.formats.layouts import layout_of
from monoscope.formats.open import Found, find
from monoscope.formats.opened import Opened

RECEIPT = "receipt.json"
TOLERANCE = 1e-4  # relative to the largest value, of what is the same dictionary in two layouts
SAME = 0.999  # share of activations that are there before and after
RANDOM_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Comparison:
    """A dictionary before and after, on the same tokens.

    on: "activations" or "random inputs"
    l0: mean number of features that fire, before
    same_features: share of activations, of those there are before or after, that are there both times; rounding moves
    those just at a threshold
    acts_error: largest difference of the others, relative to the largest; as what they contribute, since layouts count
    in different units
    recon_error: the same of reconstructions, on tokens where the same features fire
    """

    on: str
    n_tokens: int
    l0: float
    same_features: float
    acts_error: float
    recon_error: float

    @property
    def is_same(self) -> bool:
        """Whether both are one dictionary, up to rounding."""
        return max(self.acts_error, self.recon_error) <= TOLERANCE and self.same_features >= SAME


@dataclass(frozen=True, slots=True)
class Conversion:
    """What became of a dictionary: how it was read, written, and whether it is still the same."""

    source: Opened
    receipt: Receipt
    comparison: Comparison
    before: Check | None = None
    after: Check | None = None

    def to_dict(self) -> dict[str, Any]:
        """The whole story, as it lies beside the result."""
        about = self.source.about.to_dict()
        read = {"layout": self.source.layout, "evidence": self.source.evidence, **about}
        checks = {name: found.to_dict() for name, found in (("before", self.before), ("after", self.after)) if found}
        return {
            "from": read,
            "to": {name: value for name, value in dataclasses.asdict(self.receipt).items() if value},
            "comparison": dataclasses.asdict(self.comparison),
            **({"fit": checks} if checks else {}),
            **({"warnings": list(warnings)} if (warnings := self.warnings) else {}),
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know."""
        found = [*self.source.about.warnings]
        if self.before is not None:
            found += self.before.warnings
        if not self.comparison.is_same:
            found.append(
                f"read back, features differ by {self.comparison.acts_error:.2g} and reconstructions by "
                f"{self.comparison.recon_error:.2g}, relative to the largest"
            )
        if self.comparison.l0 == 0:
            found.append("no feature fired on what was compared, so that only biases were")
        return tuple(found)


def convert(
    source: str | Path | Found,
    directory: Path | str,
    to: str,
    *,
    format: str | None = None,
    activations: Activations | None = None,
    force: bool = False,
    **choices: str,
) -> Conversion:
    """Write a dictionary in another layout, as a new directory with a ``receipt.json``.

    activations: at the dictionary's sites, to compare on, and to settle rules that its files leave open
    Raises CannotHold for what the layout cannot say, OutputError where something stands at ``directory``, and DataError
    where what was written is not read back as the same dictionary; nothing is left then.
    """
    layout, found = layout_of(to), source if isinstance(source, Found) else find(source, format)
    opened = found.open(**choices) if activations is None else found.fitted(activations, **choices)
    dictionary = opened.dictionary()
    with output_directory(Path(directory), force=force) as partial:
        receipt = layout.write(dictionary, partial, opened.about)
        if not receipt.files:
            raise OutputError(f"{to} wrote nothing")
        conversion = _compared(opened, dictionary, receipt, partial, activations)
        if not conversion.comparison.is_same and not receipt.lost:
            raise DataError(
                f"what {to} wrote is not read back as the same dictionary: features differ by "
                f"{conversion.comparison.acts_error:.2g}, reconstructions by {conversion.comparison.recon_error:.2g}"
            )
        write_json(partial / RECEIPT, conversion.to_dict())
    return conversion


def _compared(
    opened: Opened, dictionary: Dictionary, receipt: Receipt, directory: Path, activations: Activations | None
) -> Conversion:
    back = find(directory, receipt.layout).open(**receipt.choices).dictionary()
    if activations is None:
        batches = sample(random_inputs(dictionary, RANDOM_TOKENS))
        return Conversion(opened, receipt, compare(dictionary, back, batches, "random inputs"))
    batches = sample(activations)
    comparison = compare(dictionary, back, batches, "activations")
    return Conversion(opened, receipt, comparison, check(dictionary, batches), check(back, batches))


@torch.no_grad()
def compare(before: Dictionary, after: Dictionary, batches: list[ActivationBatch], on: str) -> Comparison:
    """Two dictionaries of the same features on the same tokens. Raises DataError where they do not have as many."""
    if before.n_features != after.n_features:
        raise DataError(f"{before.n_features} features went in, and {after.n_features} came out")
    norms = [_norm(d) for d in (before, after)]
    n = fired = either = both = 0
    largest = dict.fromkeys(("acts", "recon", "acts_error", "recon_error"), 0.0)
    for batch in batches:
        steps = [d(*_gathered(d, before, batch), batch.mask) for d in (before, after)]
        tokens = steps[0].n_tokens
        acts = [
            (step.acts.dense().double() * norm).reshape(tokens, -1) for step, norm in zip(steps, norms, strict=True)
        ]
        recon = [step.recon.double().reshape(tokens, -1) for step in steps]
        here, there = acts[0] != 0, acts[1] != 0
        alike = (here == there).all(1)
        n, fired = n + tokens, fired + int(here.sum())
        either, both = either + int((here | there).sum()), both + int((here & there).sum())
        largest["acts"] = max(largest["acts"], _most(acts[0]))
        largest["acts_error"] = max(largest["acts_error"], _most((acts[0] - acts[1])[here & there]))
        largest["recon"] = max(largest["recon"], _most(recon[0]))
        largest["recon_error"] = max(largest["recon_error"], _most((recon[0] - recon[1])[alike]))
    tiny = torch.finfo(torch.float64).tiny
    return Comparison(
        on=on,
        n_tokens=n,
        l0=fired / max(n, 1),
        same_features=both / either if either else 1.0,
        acts_error=largest["acts_error"] / max(largest["acts"], tiny),
        recon_error=largest["recon_error"] / max(largest["recon"], tiny),
    )


def _norm(dictionary: Dictionary) -> Tensor:
    """Decoder norms as the weights have them, whatever units a wiring takes them in."""
    scales = [(buffer, buffer.clone()) for name, buffer in dictionary.named_buffers() if name == "norm_scale"]
    try:
        for buffer, _ in scales:
            buffer.fill_(1)
        return dictionary.decoder_norm().double()
    finally:
        for buffer, held in scales:
            buffer.copy_(held)


def _gathered(dictionary: Dictionary, original: Dictionary, batch: ActivationBatch) -> tuple[Tensor, Tensor]:
    """What a dictionary reads and writes, whatever its layout calls the original's sites."""
    names = zip((*original.reads, *original.writes), (*dictionary.reads, *dictionary.writes), strict=True)
    renamed = {new: batch.activations[old] for old, new in names}
    return dictionary.gather(dataclasses.replace(batch, activations=renamed))


def _most(values: Tensor) -> float:
    return values.abs().max().item() if values.numel() else 0.0
