"""A suite: dictionaries at many places of a model and in several widths, in as few passes over it as memory allows.

Names read as in ``L2.resid_post.8x``: layer, site, width. Finished dictionaries are kept whatever happens afterwards,
and the pass under way continues exactly. Source: He et al. 2024, Llama Scope (arXiv:2410.20526).

    suite.toml    every dictionary's sites, recipe and training, and the source
    pass/         the pass under way: a run of several dictionaries
    NAME/         a finished dictionary and its log
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from monoscope.core.config import Config, read_toml
from monoscope.core.errors import ConfigError
from monoscope.core.io import is_partial, remove, write_text
from monoscope.core.memory import available, machine_memory, resident
from monoscope.core.site import Site
from monoscope.dictionaries.recipe import Recipe
from monoscope.harvest.source import ActivationSource
from monoscope.harvest.text import TextSource
from monoscope.models import LanguageModel
from monoscope.training.checkpoint import check_same_config, checkpoints, remove_checkpoints
from monoscope.training.memory import Pass, plan
from monoscope.training.output import CONFIG, open_output
from monoscope.training.settings import Training
from monoscope.training.train import RunConfig, TrainedWith, is_complete, source_info, train

SUITE, PASS = "suite.toml", "pass"
TRANSCODER = "mlp"

Sites = Sequence[Site]


class Suite(Config):
    """Which places, in which widths; one dictionary for each layer, site and width."""

    layers: Literal["all"] | tuple[int, ...] = Field(default="all", description="layers, counting from 0")
    sites: tuple[str, ...] = Field(
        default=("resid_post", "attn_out", "mlp_out", TRANSCODER),
        description="kinds of site; 'mlp' is a transcoder, from mlp_in to mlp_out",
    )
    widths: tuple[int | str, ...] = Field(
        default=("8x", "32x"), description="numbers of features; '8x' is 8 times the width of the site"
    )
    memory_gb: float | None = Field(default=None, gt=0, description="GB for one pass; None: half of the machine's")
    held_out: TextSource | None = Field(
        default=None, description="text to measure on; None: the held-out part of the text, where it has one"
    )
    held_out_tokens: int = Field(default=50_000, ge=1, description="tokens to measure on")

    @model_validator(mode="after")
    def _can_be_meant(self) -> Self:
        for key in ("layers", "sites", "widths"):
            value = getattr(self, key)
            if not value:
                raise ValueError(
                    f"{key}: name at least one, or leave the key out for {type(self).model_fields[key].default}"
                )
            if value != "all" and len(set(value)) < len(value):
                raise ValueError(f"{key} name one twice: {', '.join(map(str, value))}")
        for kind in self.sites:
            if kind != TRANSCODER:
                Site(0, kind)
        for width in self.widths:
            factor(width)
        return self

    @property
    def memory(self) -> float:
        """Bytes that one pass may take; left open, half of the machine's, or what is free where that is less."""
        if self.memory_gb is not None:
            return self.memory_gb * 1e9
        return min(machine_memory() / 2, resident() + available())

    def runs(self, recipe: Recipe, training: Training, lm: LanguageModel) -> dict[str, RunConfig]:
        """Sites, recipe and training of every dictionary, by name.

        Raises ConfigError, SiteError or ModelError for layers or sites the model lacks.
        """
        layers = range(lm.n_layers) if self.layers == "all" else self.layers
        if absent := [layer for layer in layers if not 0 <= layer < lm.n_layers]:
            raise ConfigError(f"suite.layers: {lm.name} has layers 0..{lm.n_layers - 1}, found {absent[0]}")
        runs = {}
        for layer, kind, width in product(layers, self.sites, self.widths):
            kinds = ("mlp_in", "mlp_out") if kind == TRANSCODER else (kind, kind)
            read, write = (lm.resolve(Site(layer, name)) for name in kinds)
            times, n = factor(width)
            n_features = round(n * lm.width(read)) if times else round(n)
            table = recipe.to_dict()
            table["wiring"] = table["wiring"] | {"n_features": n_features}
            runs[f"L{layer}.{kind}.{width}"] = RunConfig(
                reads=(read,), writes=(write,), recipe=Recipe.from_dict(table), training=training
            )
        return runs


def factor(width: int | str) -> tuple[bool, float]:
    """Whether a width is a multiple of the site's, and the number. Raises ConfigError for what is no width."""
    text = str(width)
    if not re.fullmatch(r"\d+(\.\d+)?x|\d+", text) or float(text.rstrip("x")) == 0:
        raise ConfigError(f"widths: found {width!r}; a width is a number of features, as 3072, or a multiple, as '8x'")
    return text.endswith("x"), float(text.rstrip("x"))


def widths_of(runs: Mapping[str, RunConfig], lm: LanguageModel) -> dict[Site, int]:
    """Widths of all sites that runs need."""
    return {site: lm.width(site) for run in runs.values() for site in (*run.reads, *run.writes)}


def plan_of(runs: Mapping[str, RunConfig], lm: LanguageModel, memory: float) -> list[Pass]:
    """The passes over a model that train some dictionaries within ``memory`` bytes."""
    parameters = sum(tensor.numel() * tensor.element_size() for tensor in lm.hf.state_dict().values())
    return plan(runs, widths_of(runs, lm), model_bytes=parameters, memory=memory)


def train_suite(
    runs: Mapping[str, RunConfig],
    source: Callable[[Sites], ActivationSource],
    lm: LanguageModel,
    out: Path,
    *,
    memory: float,
    resume: bool = False,
    force: bool = False,
    announce: Callable[[Sequence[Pass], int], None] = lambda passes, finished: None,
) -> None:
    """Train every dictionary of a suite into a directory of its own.

    source: activations at some sites, always of the same text in the same order
    memory: bytes that one pass may take
    announce: told the passes that are left, and how many dictionaries are finished, before training begins

    With ``resume``, what is finished stays and the rest is trained; the weights are those of an uninterrupted run.
    """
    first = next(iter(runs.values()))
    config = TrainedWith(runs=dict(runs), source=source_info(source((*first.reads, *first.writes))))
    goes_on = resume and (out / SUITE).is_file()
    if not goes_on:
        plan_of(runs, lm, memory)  # refuses before anything is written
    with ExitStack() as stack:
        open_output(out, stack, resume=goes_on, force=force)
        for leftover in filter(is_partial, list(out.iterdir())):
            remove(leftover)
        if goes_on:
            begun = TrainedWith.from_dict(read_toml(out / SUITE))  # with defaults for keys that did not exist then
            check_same_config(begun.to_dict(), config.to_dict())
            _collect(out)
        else:
            write_text(out / SUITE, config.to_toml())
        under_way = names_under_way(out)
        finished = [name for name in runs if is_complete(out / name)]
        passes = plan_of({name: runs[name] for name in under_way}, lm, math.inf)  # goes on as it began
        passes += plan_of({name: run for name, run in runs.items() if name not in {*finished, *under_way}}, lm, memory)
        announce(passes, len(finished))
        for number, one in enumerate(passes):
            own = {name: runs[name] for name in one.names}
            train(
                [run.recipe for run in own.values()],
                source(one.sites),
                reads=[run.reads for run in own.values()],
                writes=[run.writes for run in own.values()],
                training=[run.training for run in own.values()],
                names=list(own),
                lm=lm,
                out=out / PASS,
                resume=number == 0 and bool(under_way),
            )
            remove_checkpoints(out / PASS)
            _collect(out)


def names_under_way(out: Path) -> tuple[str, ...]:
    """Dictionaries of a suite whose pass was interrupted, and goes on from its checkpoint."""
    if not checkpoints(out / PASS):
        return ()
    return tuple(read_toml(out / PASS / CONFIG)["runs"])


def _collect(out: Path) -> None:
    """Move what a pass has finished to its place; a pass that ended before its first checkpoint leaves nothing."""
    if not (out / PASS).is_dir() or checkpoints(out / PASS):
        return
    for directory in (out / PASS).iterdir():
        if is_complete(directory):
            directory.replace(out / directory.name)
    remove(out / PASS)
