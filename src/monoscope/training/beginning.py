"""The beginning of a pass: what is learned from the first activations of a source, and the stream that follows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.device import usable
from monoscope.core.errors import ConfigError, DataError
from monoscope.core.mesh import ALONE, Mesh
from monoscope.core.site import Site
from monoscope.dictionaries.base import Dictionary, stacked
from monoscope.dictionaries.initialize import Sample
from monoscope.dictionaries.normalize import BLOCK, Scale, estimate_scales
from monoscope.dictionaries.recipe import Recipe
from monoscope.harvest import ahead, repeat, sequences, shuffle, take
from monoscope.harvest.source import ActivationSource
from monoscope.models import LanguageModel
from monoscope.parallel.mesh import share
from monoscope.parallel.shard import shard_
from monoscope.training.descent import Descent
from monoscope.training.downstream import origin_of
from monoscope.training.growth import Growth
from monoscope.training.lanes import Lanes, pieces
from monoscope.training.run import Run, scaled_by
from monoscope.training.settings import Training

SCALE_TOKENS = 50_000  # the relative error of a mean norm over these is near 1e-3
SEQUENCE_TOKENS = 16_000  # of whole sequences, from which a dictionary that reads them starts


class Beginning:
    """The first activations of a source at some sites; the source's position is then what it was.

    Of the only run they are scaled where they are, so that they are in memory once. Raises DataError for a source
    without activations that count.
    """

    def __init__(self, source: ActivationSource, sites: set[Site], n_runs: int = 1) -> None:
        self.source, self.n_runs = source, n_runs
        self.widths = {site: source.widths[site] for site in sites}
        room = {site: torch.empty(SCALE_TOKENS, width) for site, width in self.widths.items()}
        position = source.state_dict()
        n_tokens, self.is_flat = 0, True
        for batch in source:
            self.is_flat = next(iter(batch.activations.values())).ndim == 2
            flat = batch.flat()
            for site, first in room.items():
                left = first[n_tokens:]
                left[: flat.n_tokens].copy_(flat.activations[site][: len(left)])
            n_tokens += flat.n_tokens
            if n_tokens >= SCALE_TOKENS:
                break
        source.load_state_dict(position)
        if n_tokens == 0:
            raise DataError("the source holds no activations that count")
        self.activations = {site: first[:n_tokens] for site, first in room.items()}

    def run(
        self,
        name: str,
        recipe: Recipe,
        training: Training,
        reads: tuple[Site, ...],
        writes: tuple[Site, ...],
        lm: LanguageModel | None,
        mesh: Mesh = ALONE,
    ) -> Run:
        """A dictionary at its start, ready to train; on a mesh, the share of this process."""
        dictionary = recipe.build(reads, writes, self.widths).train()
        first = self._finite((*reads, *writes))
        scales = share(mesh, estimate_scales(first, recipe.normalize))
        sample = self._sample(dictionary, first, scales, lm)
        dictionary.initialize_(recipe.initialize, sample, torch.Generator().manual_seed(training.seed))
        is_shared = mesh.every.size > 1
        if recipe.wiring.grows:
            if is_shared:
                raise ConfigError(
                    f"{recipe.wiring.to_dict()['kind']!r} takes its features from one stream of tokens, one after the "
                    "other; train it in one process"
                )
            return Growth(name, recipe, training, dictionary.to(usable(training.device)), scales)
        placed = shard_(dictionary, mesh) if is_shared else None
        dictionary = dictionary.to(usable(training.device))
        if placed is not None:
            placed.agree_(dictionary)
        return Descent(name, recipe, training, dictionary, scales, lm, placed)

    def _finite(self, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """The first activations at some sites, without tokens that are NaN or infinite: the loop deals with those."""
        first = {site: self.activations[site] for site in dict.fromkeys(sites)}
        finite = torch.stack([_rows_are_finite(x) for x in first.values()]).all(0)
        return first if finite.all() else {site: x[finite] for site, x in first.items()}

    def _sample(
        self, dictionary: Dictionary, first: dict[Site, Tensor], scales: dict[Site, Scale], lm: LanguageModel | None
    ) -> Sample:
        reads, writes = dictionary.reads, dictionary.writes
        scale_in, scale_out = (torch.tensor([scales[site].value for site in sites]) for sites in (reads, writes))
        values, mask = first, None
        if not dictionary.per_token:
            batch = self._sequences().to("cpu")
            values, mask = {site: x.float() for site, x in batch.activations.items()}, batch.mask
        x = stacked(values, reads)
        target = x if reads == writes else stacked(values, writes)
        is_ours = self.n_runs == 1 and dictionary.per_token
        scaled = scaled_by(x, scale_in, in_place=is_ours)
        target = scaled if target is x else scaled_by(target, scale_out, in_place=is_ours)
        return Sample(scaled, target, scale_in, scale_out, origin_of(lm, reads, writes), mask)

    def _sequences(self) -> ActivationBatch:
        position = self.source.state_dict()
        batch = next(iter(sequences(self.source, SEQUENCE_TOKENS)))
        self.source.load_state_dict(position)
        return batch

    def stream(self, runs: Sequence[Run], n_lanes: int = 1, mesh: Mesh = ALONE) -> ActivationSource:
        """The source without end, in random order: as tokens, or as whole sequences where a run needs them.

        In several lanes, each reads a part of the source; on a mesh, this process's rows of a batch are given. Batches
        are on the device that trains.
        """
        batch_tokens = runs[0].settings.batch_tokens
        if batch_tokens % n_lanes:
            raise ConfigError(f"training.batch_tokens is {batch_tokens}, which {n_lanes} lanes cannot share equally")
        if n_lanes == 1 and mesh.data.size == 1:
            return self._lane(runs, 0, 1)
        return Lanes(lambda number: self._lane(runs, number, n_lanes), n_lanes, mesh)

    def _lane(self, runs: Sequence[Run], number: int, of: int) -> ActivationSource:
        source = self.source if of == 1 else self.source.part(number, of)
        device, stream = usable(runs[0].settings.device), self._shuffled(runs, source, of)
        return stream if device.type == "cpu" else ahead(stream, device)

    def _shuffled(self, runs: Sequence[Run], source: ActivationSource, n_lanes: int) -> ActivationSource:
        settings = runs[0].settings
        batch_tokens = settings.batch_tokens // n_lanes
        needs_sequences = any(
            not run.dictionary.per_token or any(term.needs_model for term in run.recipe.terms.values()) for run in runs
        )
        if needs_sequences:
            return sequences(repeat(source), batch_tokens)
        if self.is_flat:
            return pieces(repeat(source), n_lanes)
        read = take(repeat(source), settings.steps * batch_tokens)
        return shuffle(read, -(-settings.shuffle_tokens // n_lanes), settings.seed, batch_tokens=batch_tokens)


def _rows_are_finite(x: Tensor) -> Tensor:
    finite = torch.empty(len(x), dtype=torch.bool)
    for some, out in zip(x.split(BLOCK), finite.split(BLOCK), strict=True):  # at once, it would take as much room again
        torch.all(some.isfinite(), -1, out=out)
    return finite
