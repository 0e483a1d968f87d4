"""Run: one dictionary in training, with everything that moves along with it."""

from __future__ import annotations

import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monoscope import ops
from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import ElsewhereError, NotFinite
from monoscope.core.mesh import ALONE, Mesh, on
from monoscope.core.site import Site
from monoscope.dictionaries.base import Dictionary
from monoscope.dictionaries.normalize import Scale
from monoscope.dictionaries.recipe import Recipe
from monoscope.dictionaries.step import Step
from monoscope.parallel.mesh import alike, together
from monoscope.parallel.shard import Placed
from monoscope.training.health import Health
from monoscope.training.settings import Training

FEW_SKIPPED = 10  # steps; a longer run may leave out a hundredth of its steps

_log = logging.getLogger("monoscope.training")
NARROW = {"bf16": torch.bfloat16, "int8": torch.int8}


class Run(ABC):
    """A dictionary that learns from a stream of batches, and the scales of its activations.

    placed: where several processes train the dictionary together, the share that this one holds, and what it is given
        as ``dictionary``
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        settings: Training,
        dictionary: Dictionary,
        scales: Mapping[Site, Scale],
        placed: Placed | None = None,
    ) -> None:
        self.name, self.recipe, self.settings, self.scales = name, recipe, settings, dict(scales)
        self.placed = placed
        self.dictionary = dictionary.train()
        self.dictionary.encode_dtype = _narrow(settings.encode_dtype, dictionary.device)
        self.health = Health(dictionary.n_features, settings.dead_after_tokens, dictionary.device)
        self.n_skipped = 0
        self.reads_late = False
        self.is_finite: Bool[Tensor, ""] = torch.tensor(True)
        self._not_finite = torch.zeros((), dtype=torch.int64, device=dictionary.device)

    def learn(self, batch: ActivationBatch, number: int) -> bool:
        """Learn from the batch of a step, counting from 0. False for one left out, as it held NaN or infinity.

        Raises NotFinite, saying where it was found, unless the settings leave such steps out and they are few. Where
        ``reads_late``, on a GPU, such steps move nothing, are counted there, and ``look_back`` says so.
        """
        if self.reads_late:
            self._learn_unseen(batch, number)
            return True
        may_skip = self.settings.on_nonfinite == "skip"
        before = [tensor.clone() for tensor in self._running()] if may_skip else []
        try:
            with together(self.mesh):  # on a mesh, a batch is left out by all who read a part of it
                _check_finite(batch, (*self.dictionary.reads, *self.dictionary.writes))
            with alike(self.mesh), self.here():
                self.advance(batch, number)
        except (NotFinite, ElsewhereError) as error:
            is_told = isinstance(error, ElsewhereError)
            where = f"step {number + 1}{f' of {self.name}' if self.name else ''}: {error}"
            if not may_skip:
                raise error if is_told else NotFinite(where) from None
            self.n_skipped += 1
            if self.n_skipped > max(FEW_SKIPPED, self.settings.steps // 100):
                too_many = f"{where}; {self.n_skipped} steps were left out, which are too many"
                raise error if is_told else NotFinite(too_many) from None
            for now, then in zip(self._running(), before, strict=True):
                now.copy_(then)
            if not is_told:
                _log.warning("%s; left out, %d so far", where, self.n_skipped)
            return False
        return True

    @torch.no_grad()
    def _learn_unseen(self, batch: ActivationBatch, number: int) -> None:
        before = [tensor.clone() for tensor in self._running()]
        with torch.enable_grad(), self.here():
            self.advance(batch, number)
        for now, then in zip(self._running(), before, strict=True):
            now.copy_(torch.where(self.is_finite, now, then))
        self._not_finite += ~self.is_finite

    def look_back(self) -> None:
        """Read how many of the steps since the last look were left out. Raises NotFinite as ``learn`` does."""
        n = int(self._not_finite) if self.reads_late else 0
        if n == 0:
            return
        self._not_finite.zero_()
        self.n_skipped += n
        where = f"{n} of the last steps{f' of {self.name}' if self.name else ''}: activations, loss or gradient"
        if self.settings.on_nonfinite != "skip":
            raise NotFinite(f"{where} are NaN or infinite; lower the learning rate, or look at the activations")
        if self.n_skipped > max(FEW_SKIPPED, self.settings.steps // 100):
            raise NotFinite(f"{where} are NaN or infinite; {self.n_skipped} steps were left out, which are too many")
        _log.warning("%s are NaN or infinite; left out, %d so far", where, self.n_skipped)

    def _running(self) -> list[Tensor]:
        """What a forward pass changes: running thresholds, and the ages of features."""
        return [*self.dictionary.activation.buffers(), self.health.age]

    @abstractmethod
    def advance(self, batch: ActivationBatch, number: int) -> None:
        """Learn from the batch of a step, counting from 0. Raises NotFinite, with the weights as they were."""

    @abstractmethod
    def metrics(self) -> dict[str, Any]:
        """What the log says of the last step."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` gave."""

    @property
    def predicted_bytes(self) -> int:
        """Bytes of its state once the optimizer has one for every weight."""
        weights = sum(tensor.nbytes for tensor in self.dictionary.state_dict().values())
        return weights * (1 + self.settings.optimizer.states) + self.health.age.nbytes

    @property
    def scale_in(self) -> Float[Tensor, " reads"]:
        """What activations read are multiplied by."""
        return torch.tensor([self.scales[site].value for site in self.dictionary.reads])

    @property
    def scale_out(self) -> Float[Tensor, " writes"]:
        """What targets are multiplied by."""
        return torch.tensor([self.scales[site].value for site in self.dictionary.writes])

    def forward(self, batch: ActivationBatch) -> Step:
        """One pass over a batch, in scaled activations, with the features that are dead after it."""
        x, target = self.dictionary.gather(batch)
        scaled = scaled_by(x, self.scale_in)
        step = self.dictionary(scaled, scaled if target is x else scaled_by(target, self.scale_out), batch.mask)
        n_tokens = ops.token_count(step.n_tokens)
        self.health.update(step.acts, n_tokens)
        dead = {"is_dead": self.health.is_dead, "most_dead": self.health.most_dead}
        return dataclasses.replace(step, **dead, n_all_tokens=n_tokens)

    @property
    def mesh(self) -> Mesh:
        """The processes that train the dictionary."""
        return ALONE if self.placed is None else self.placed.mesh

    @property
    def n_features(self) -> int:
        """Features of the whole dictionary."""
        return self.dictionary.n_features if self.placed is None else self.placed.shards.n_features

    @property
    def trained(self) -> list[str]:
        """Names of the parameters that an optimizer moves, in its order."""
        return []

    def here(self) -> AbstractContextManager[None]:
        """Within the block, ops compute the share of this process."""
        return on(None if self.placed is None else self.placed.shards)

    def whole(self) -> Dictionary:
        """The dictionary itself, or where processes share it all of it, gathered on each of them."""
        if self.placed is None:
            return self.dictionary
        own = self.dictionary
        whole = self.recipe.build(own.reads, own.writes, own.widths).train()
        with torch.no_grad():
            for name, tensor in own.state_dict().items():
                whole.state_dict()[name].copy_(self.placed.gathered(name, tensor))
        if "function.k" in self.settings.schedules:
            whole.activation.k = own.activation.k  # pyright: ignore[reportAttributeAccessIssue]
        return whole

    def finished(self) -> Dictionary:
        """The dictionary for use: frozen, raw units in and out."""
        done = self.whole().frozen().cpu()
        done.fold_(self.scale_in, self.scale_out)
        return done


def _narrow(name: str, device: torch.device) -> torch.dtype | None:
    return ops.fastest_dtype(device) if name == "auto" else NARROW.get(name)


def _check_finite(batch: ActivationBatch, sites: Iterable[Site]) -> None:
    for site in dict.fromkeys(sites):
        x = batch.activations[site]
        # A sum is finite unless a summand is not or it overflows: one pass, and the exact answer only where it matters.
        if not torch.isfinite(x.sum()) and len(bad := (~torch.isfinite(x)).any(-1).nonzero()):
            rows = f"{bad[0].tolist()} and {len(bad) - 1} more" if len(bad) > 1 else f"{bad[0].tolist()}"
            raise NotFinite(f"activations at {site} are NaN or infinite in row {rows} of the batch")


def scaled_by(
    x: Float[Tensor, "*batch d"], scale: Float[Tensor, " site"], *, in_place: bool = False
) -> Float[Tensor, "*batch d"]:
    """Activations times the scale of their site."""
    # A number is multiplied with as it is; several travel to the device, and nobody waits until they are there.
    factor = scale[0] if len(scale) == 1 else scale[:, None].to(x.device, non_blocking=True)
    return x.mul_(factor) if in_place else x * factor
