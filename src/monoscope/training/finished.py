"""A run's dictionary for use: at the end, and as it is on the way.

    OUT/snapshots/TOKENS/    the dictionary after so many tokens, where the settings ask for it: ``config.toml`` and
                             ``weights.safetensors``, as at the end

Of several dictionaries that are trained together, each has its snapshots in its own directory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monoscope.core.mesh import Mesh
from monoscope.dictionaries.base import Dictionary
from monoscope.dictionaries.saved import save
from monoscope.harvest.source import ActivationSource
from monoscope.parallel.mesh import together
from monoscope.training.run import Run

SNAPSHOTS = "snapshots"


def finished(run: Run, source: ActivationSource, seconds: float, **facts: Any) -> Dictionary:
    """A frozen copy in raw units, with where it came from; gathered on every process that shares it."""
    done = run.finished()
    done.provenance = {
        "trained_as": run.recipe.to_dict(),
        "training": run.settings.to_dict(),
        "source": without_none(source.info),
        "scales": {str(site): [scale.value, scale.relative_error] for site, scale in run.scales.items()},
        "seconds": round(seconds, 1),
        **({"skipped": run.n_skipped} if run.n_skipped else {}),
        **facts,
    }
    return done


def save_snapshots(
    directory: Path, runs: Sequence[Run], source: ActivationSource, step: int, seconds: float, mesh: Mesh
) -> None:
    """Save the dictionaries that are to be kept as they are after a step."""
    for run in runs:
        if step not in run.settings.snapshot_steps:
            continue
        tokens = step * run.settings.batch_tokens
        dictionary = finished(run, source, seconds, tokens=tokens)
        with together(mesh):
            if mesh.is_first:
                save(dictionary, directory / run.name / SNAPSHOTS / str(tokens), force=True)


def without_none(value: Any) -> Any:
    """A value as TOML can hold it: without what is None."""
    if isinstance(value, Mapping):
        return {str(key): without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [without_none(item) for item in value if item is not None]
    return value
