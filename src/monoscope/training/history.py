"""History: a training run as it stands in its directory, while it goes on or after, for notebooks and scripts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from monoscope.core.config import read_toml
from monoscope.core.errors import DataError, nearest
from monoscope.core.notebook import curve, described
from monoscope.training.log import METRICS, read_log
from monoscope.training.output import CONFIG
from monoscope.training.train import RunConfig, is_complete

CURVES = ("loss", "fvu", "l0", "dead", "lr")


@dataclass(frozen=True)
class History:
    """What a run logged, and its settings: ``History.open("runs/demo/dictionary")``."""

    path: Path
    config: RunConfig
    rows: tuple[dict[str, Any], ...]

    @classmethod
    def open(cls, path: Path | str) -> History:
        """The run of a directory, as of now. Raises DataError where there is none, ConfigError for settings not ours.

        One of several runs of a pass is a directory inside of that of the pass.
        """
        path = Path(path)
        if not (path / METRICS).is_file():
            inside = sorted(found.parent.name for found in path.glob(f"*/{METRICS}"))
            hint = f"; it holds the runs {', '.join(inside)}: open one of them" if inside else ""
            raise DataError(f"{path} is no training run: no {METRICS} in it{hint}")
        for settings, name in ((path / CONFIG, ""), (path.parent / CONFIG, path.name)):
            runs = read_toml(settings).get("runs", {}) if settings.is_file() else {}
            if name in runs:
                return cls(path, RunConfig.from_dict(runs[name]), tuple(read_log(path / METRICS)))
        raise DataError(f"{path} is no training run: its settings are in no {CONFIG} there or one above")

    @property
    def is_finished(self) -> bool:
        """Whether the finished dictionary stands beside the log."""
        return is_complete(self.path)

    def column(self, name: str) -> Float[np.ndarray, " rows"]:
        """A number of every row, NaN where a row lacks it. Raises DataError for one that no row has."""
        known = {key for row in self.rows for key, value in row.items() if isinstance(value, (int, float))}
        if name not in known:
            raise DataError(f"the log has no {name!r}; {nearest(name, sorted(known))}")
        return np.array([row.get(name, np.nan) for row in self.rows], dtype=np.float64)

    def __repr__(self) -> str:
        last = self.rows[-1] if self.rows else {}
        facts = ", ".join(f"{name} {last[name]:.4g}" for name in ("fvu", "l0", "dead") if name in last)
        steps = f"step {last.get('step', 0):,} of {self.config.training.steps:,}"
        return f"History({str(self.path)!r}, {steps}{', ' + facts if facts else ''})"

    def _repr_html_(self) -> str:
        """What a notebook shows: settings, the last numbers, and their curves."""
        last, recipe, training = self.rows[-1] if self.rows else {}, self.config.recipe, self.config.training
        step = last.get("step", 0)
        text = described(
            f"training run {self.path.name}",
            {
                "reads": tuple(map(str, self.config.reads)),
                "writes": None if self.config.writes == self.config.reads else tuple(map(str, self.config.writes)),
                "dictionary": f"{recipe.wiring.to_dict()['kind']}, {recipe.function.to_dict()['kind']}",
                "state": "finished" if self.is_finished else f"at step {step:,} of {training.steps:,}",
                "tokens": last.get("tokens"),
                "tokens a second": last.get("tokens_per_s"),
                "directory": str(self.path),
            },
        )
        drawn = [
            f'<td style="padding:2px 16px 2px 0;border:none;background:none">{name} {last[name]:.4g}<br>'
            f"{curve(self.column('step'), self.column(name), name)}</td>"
            for name in CURVES
            if isinstance(last.get(name), (int, float))
        ]
        return f'<div>{text}<table style="border:none"><tr>{"".join(drawn)}</tr></table></div>'
