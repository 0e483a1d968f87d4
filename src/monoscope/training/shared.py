"""Checkpoints of a run that several processes train: directories to which each writes its share.

    checkpoint-STEP.SHA/    SHA: the first 16 digits of the SHA-256 of its state.json, which holds those of all files

Any number of processes can go on from one, and from what a single process wrote; see ``parallel.checkpoint``. One
without its state.json, as in a store that was not sent all of it, is none.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monoscope.core.errors import DataError, ElsewhereError
from monoscope.core.io import remove, replace_directory, sha256_file
from monoscope.core.mesh import Mesh
from monoscope.parallel.checkpoint import STATE, CutOf, facts_of, load_parts, part_of, save_parts
from monoscope.parallel.mesh import share, together
from monoscope.parallel.shard import Cut, cuts_of, features_of
from monoscope.training.checkpoint import KEPT, SHARED, checkpoints
from monoscope.training.output import Output
from monoscope.training.run import Run

_NAME = re.compile(r"checkpoint-(\d+)\.([0-9a-f]{16})")
_log = logging.getLogger("monoscope.training")


def cut_of(runs: Sequence[Run]) -> CutOf:
    """How the tensors in the state of runs are shared out, by their keys: weights, optimizer states, ages.

    What an optimizer keeps of a parameter has the parameter's shape.
    """
    cuts: dict[str, Cut] = {}
    for number, run in enumerate(runs):
        own = cuts_of(run.dictionary) if run.placed is None else run.placed.cuts
        key = f"runs.{number}"
        cuts[f"{key}.age"] = features_of(run.dictionary) if run.placed is None else run.placed.features
        cuts |= {f"{key}.dictionary.{name}": cut for name, cut in own.items()}
        for place, name in enumerate(run.trained):
            if name in own:
                cuts[f"{key}.optimizer.state.{place}"] = own[name]

    def find(key: str) -> Cut | None:
        return cuts.get(key) or cuts.get(key.rpartition(".")[0] if ".optimizer.state." in key else "")

    return find


def shared_checkpoints(directory: Path) -> list[tuple[int, Path]]:
    """Step and place of the checkpoints that several processes wrote, newest first."""
    found = [
        (int(match[1]), path)
        for path in directory.glob(SHARED)
        if (match := _NAME.fullmatch(path.name)) and (path / STATE).is_file()
    ]
    return sorted(found, reverse=True)


def save_shared(out: Output, step: int, state: Mapping[str, Any], runs: Sequence[Run], mesh: Mesh) -> None:
    """Write the state after a step, of which every process gives its share; then remove all but the last two."""
    directory, partial = out.directory, out.directory / ".checkpoint.partial"
    with together(mesh):
        if out.keeps:
            remove(partial)
            partial.mkdir()
    save_parts(partial, state, cut_of(runs), mesh, keeps=out.keeps)
    with together(mesh):
        if out.keeps:
            replace_directory(partial, directory / f"checkpoint-{step:08d}.{sha256_file(partial / STATE)[:16]}")
            kept = {path for _, path in shared_checkpoints(directory)[:KEPT]}
            for old in ({*directory.glob(SHARED)} - kept) | {*checkpoints(directory)}:
                remove(old)
    out.send()


def load_shared(directory: Path, runs: Sequence[Run], mesh: Mesh) -> dict[str, Any]:
    """The newest state that is whole, of which each process gets its share. Raises DataError where none is."""
    found = share(mesh, [path.name for _, path in shared_checkpoints(directory)])
    for name in found:
        path = directory / name
        try:
            with together(mesh):
                if not sha256_file(path / STATE).startswith(name.split(".")[1]):
                    raise DataError(f"{path / STATE} was changed after it was written")
            return load_parts(path, cut_of(runs), mesh)
        except (DataError, ElsewhereError, OSError) as error:
            if mesh.is_first:
                _log.warning("%s cannot be used: %s", path, error)
    raise DataError(f"nothing to resume: no checkpoint in {directory} is whole")


def is_newest_shared(directory: Path) -> bool:
    """Whether several processes wrote the newest checkpoint."""
    shared, alone = shared_checkpoints(directory), checkpoints(directory)
    return bool(shared) and (not alone or shared[0][1].name > alone[0].name)


def facts_of_newest(directory: Path) -> dict[str, Any]:
    """The newest state that several processes wrote, without its tensors."""
    return facts_of(shared_checkpoints(directory)[0][1])


def share_of(state: Mapping[str, Any], runs: Sequence[Run], mesh: Mesh) -> dict[str, Any]:
    """The share of this process, of a state that a single process wrote."""
    return dict(state) if mesh.features.size == 1 else part_of(state, cut_of(runs), mesh)
