"""``train``: from a recipe and activations to dictionaries ready for use."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, overload

import numpy as np
from pydantic import Field
from torch import Tensor

from monoscope.core.config import Config
from monoscope.core.device import usable
from monoscope.core.errors import ConfigError, DataError, MismatchError, nearest
from monoscope.core.io import LOCK, write_text
from monoscope.core.mesh import ALONE, Mesh
from monoscope.core.site import Site
from monoscope.core.stores.remote import Location
from monoscope.dictionaries.base import Dictionary
from monoscope.dictionaries.recipe import Recipe
from monoscope.dictionaries.saved import FILES, load, write_files
from monoscope.harvest import ActivationStore, from_array
from monoscope.harvest.source import ActivationSource
from monoscope.models import LanguageModel
from monoscope.parallel.mesh import alike, meshed, share, together
from monoscope.training.beginning import Beginning
from monoscope.training.checkpoint import (
    check_same_config,
    checkpoints,
    load_checkpoint,
    remove_checkpoints,
    warn_if_short,
)
from monoscope.training.downstream import origin_of
from monoscope.training.finished import finished, without_none
from monoscope.training.output import CONFIG, Output, opened
from monoscope.training.run import Run
from monoscope.training.settings import Parallel, Training
from monoscope.training.shared import (
    facts_of_newest,
    is_newest_shared,
    load_shared,
    share_of,
    shared_checkpoints,
)
from monoscope.training.trainer import checkpoint, fit

PARALLEL = Parallel()

RecipeLike = Recipe | Mapping[str, Any] | str | Path
SourceLike = ActivationSource | str | Path | Tensor | np.ndarray
Sites = Sequence[Site | str]


class RunConfig(Config):
    """One dictionary: where it reads and writes, what it is, and how it is trained."""

    reads: tuple[Site, ...] = Field(default=(), description="sites; (): the source's only one")
    writes: tuple[Site, ...] = Field(default=(), description="sites; (): those that are read")
    recipe: Recipe = Recipe()
    training: Training = Training()


class TrainedWith(Config):
    """What is saved beside the runs of one pass, and compared when it is resumed."""

    runs: dict[str, RunConfig]
    source: dict[str, Any]


@overload
def train(recipe: RecipeLike, source: SourceLike, **settings: Any) -> Dictionary: ...


@overload
def train(
    recipe: list[RecipeLike] | tuple[RecipeLike, ...], source: SourceLike, **settings: Any
) -> list[Dictionary]: ...


def train(
    recipe: RecipeLike | list[RecipeLike] | tuple[RecipeLike, ...],
    source: SourceLike,
    *,
    reads: Sites | Sequence[Sites] | None = None,
    writes: Sites | Sequence[Sites] | None = None,
    training: Training | Sequence[Training] | None = None,
    names: Sequence[str] | None = None,
    lm: LanguageModel | None = None,
    out: Location | str | None = None,
    resume: bool = False,
    force: bool = False,
    parallel: Parallel = PARALLEL,
    **settings: Any,
) -> Dictionary | list[Dictionary]:
    """The dictionary of a recipe, trained on activations; or several, in one pass, for a list of recipes.

    recipe: a Recipe, a table like the TOML's ``[recipe]``, or the path of a TOML file that holds one
    source: an ActivationSource, the path of a store, or an array ``[n, d]``; repeated as often as needed
    reads, writes: sites; by default the source's only one, and what is read. Of several recipes each may have its own:
        a list with the sites of each
    training: how; ``settings`` such as ``tokens=600_000, seed=0`` change single keys of it
    lm: the model the activations are of, for recipes with an ``end_to_end`` term or a start from the model's weights
    out: a directory, or the URL of one, for config, weights, log and checkpoints; several recipes each get a
        directory inside, by name.
        With ``resume`` an interrupted run continues to the same weights, with ``force`` what stands there is replaced.

    parallel: how the processes that ``torchrun`` started share the work; each gets the finished dictionaries, and the
        first writes them

    Where a dictionary needs whole sequences, the pass reads whole sequences for all.
    Raises ConfigError, DataError, MismatchError or OutputError, saying what was found and what would be right.
    """
    several = isinstance(recipe, (list, tuple))
    recipes = [_recipe(item) for item in recipe] if isinstance(recipe, (list, tuple)) else [_recipe(recipe)]
    each = list(training) if isinstance(training, Sequence) else [training or Training()] * len(recipes)
    each = [Training.from_dict(item.to_dict() | settings) for item in each]
    _check_one_pass(each, len(recipes))
    if out is None and any(item.snapshots for item in each):
        raise ConfigError("snapshots are saved in a run's directory: name one, as in train(..., out='runs/sae')")
    labels = list(names or (map(str, range(len(recipes))) if several else [""]))
    activations = _source(source, each[0])
    read = [sites or _only_site(activations) for sites in _sites_of_each(reads, len(recipes))]
    written = [sites or read[at] for at, sites in enumerate(_sites_of_each(writes, len(recipes)))]
    _check_sites(activations, {site for sites in (*read, *written) for site in sites})
    _check_model(dict(zip(labels, recipes, strict=True)), lm)
    recipes = [item.completed(origin_of(lm, r, w)) for item, r, w in zip(recipes, read, written, strict=True)]
    runs = [
        RunConfig(reads=r, writes=w, recipe=item, training=how)
        for r, w, item, how in zip(read, written, recipes, each, strict=True)
    ]
    config = TrainedWith(
        runs=dict(zip(labels, runs, strict=True)),
        source=source_info(activations),
    )
    with meshed(parallel.features, usable(each[0].device)) as mesh, ExitStack() as stack:
        output = None if out is None else stack.enter_context(opened(out, mesh, resume=resume, force=force))
        if output is not None and resume and share(mesh, all(is_complete(output.directory / name) for name in labels)):
            done = [load(output.directory / name) for name in labels]
            _clean(output, mesh)
            return done if several else done[0]
        models: list[LanguageModel] = [*activations.models, *([] if lm is None else [lm])]
        for model in set(models):
            stack.enter_context(_read_together(model, mesh))
        with alike(mesh):
            prepared, stream, start = _prepare(config, activations, lm, output, mesh, parallel.lanes, resume=resume)
        began = time.monotonic()
        fit(prepared, stream, start=start, config=config.to_dict(), out=output, mesh=mesh)
        done = [finished(run, stream, time.monotonic() - began) for run in prepared]
        with together(mesh):
            if output is not None and mesh.is_first:
                for run, dictionary in zip(prepared, done, strict=True):
                    write_files(dictionary, output.directory / run.name)
        if output is not None:
            _clean(output, mesh)
    return done if several else done[0]


def _recipe(value: RecipeLike) -> Recipe:
    if isinstance(value, Recipe):
        return value
    if isinstance(value, Mapping):
        return Recipe.from_dict(value)
    from monoscope.core.config import read_toml

    table = read_toml(value)
    return Recipe.from_dict(table.get("recipe", table))


def _source(value: SourceLike, training: Training) -> ActivationSource:
    if isinstance(value, ActivationSource):
        return value
    if isinstance(value, (str, Path)):
        return ActivationStore(value)
    skips = training.on_nonfinite == "skip"
    return from_array(value, seed=training.seed, batch_tokens=training.batch_tokens, skip_not_finite=skips)


def _only_site(source: ActivationSource) -> tuple[Site, ...]:
    if len(source.sites) != 1:
        raise ConfigError(f"the source has {len(source.sites)} sites ({', '.join(map(str, source.sites))}): name reads")
    return source.sites


def _sites_of_each(sites: Sites | Sequence[Sites] | None, n: int) -> list[tuple[Site, ...]]:
    """Sites of each of ``n`` recipes, from those of all or a list of them; () where none are named."""
    if not sites:
        return [()] * n
    if all(isinstance(item, (str, Site)) for item in sites):
        return [tuple(map(Site.parse, sites))] * n  # type: ignore[arg-type]
    if len(sites) != n:
        raise ConfigError(f"found sites for {len(sites)} recipes, and {n} recipes; name the sites of each, or of all")
    return [tuple(map(Site.parse, item)) for item in sites]  # type: ignore[arg-type]


def _check_model(recipes: Mapping[str, Recipe], lm: LanguageModel | None) -> None:
    for name, recipe in recipes.items():
        if recipe.needs_model and lm is None:
            which = f"the recipe {name!r}" if name else "the recipe"
            raise ConfigError(f"{which} asks the language model, for a term or its start; pass train(..., lm=lm)")


def _check_sites(source: ActivationSource, needed: set[Site]) -> None:
    for site in needed:
        if site not in source.sites:
            raise MismatchError(
                f"the source has no activations at {site}; {nearest(str(site), map(str, source.sites))}"
            )


def _check_one_pass(each: Sequence[Training], n_recipes: int) -> None:
    if len(each) != n_recipes:
        raise ConfigError(f"found {len(each)} training settings for {n_recipes} recipes; give one, or one for each")
    for key in ("tokens", "batch_tokens", "shuffle_tokens", "seed", "log_every", "checkpoint_every", "device"):
        found = sorted({getattr(item, key) for item in each})
        if len(found) > 1:
            raise ConfigError(f"dictionaries trained in one pass share {key}; found {found}")


def source_info(source: ActivationSource) -> dict[str, Any]:
    """What a source says of itself, but for its position: a resumed run must read the same."""
    return without_none({key: value for key, value in source.info.items() if key != "excluded"})


def is_complete(directory: Path) -> bool:
    """Whether a finished dictionary stands in a directory."""
    return all((directory / name).is_file() for name in FILES)


def _clean(output: Output, mesh: Mesh) -> None:
    """Remove what finished runs need no more."""
    with together(mesh):
        if output.keeps:
            remove_checkpoints(output.directory)
    output.send()


@contextmanager
def _read_together(lm: LanguageModel, mesh: Mesh) -> Iterator[None]:
    """Within the block, processes that share features read the rows of each batch together."""
    lm.readers = mesh.features
    try:
        yield
    finally:
        lm.readers = ALONE.features


def _prepare(
    config: TrainedWith,
    source: ActivationSource,
    lm: LanguageModel | None,
    output: Output | None,
    mesh: Mesh,
    lanes: int | None,
    *,
    resume: bool,
) -> tuple[list[Run], ActivationSource, int]:
    """Runs ready to train, the stream they train on, and the step to start from."""
    state, saved, is_shared = None, None, False
    out = None if output is None else output.directory
    if resume and out is not None:
        with together(mesh):
            if _was_begun(out):
                is_shared = is_newest_shared(out)
                saved = facts_of_newest(out) if is_shared else load_checkpoint(out)
                begun = TrainedWith.from_dict(saved["config"])  # with defaults for keys that did not exist then
                check_same_config(begun.to_dict(), config.to_dict())
    sites = {site for run in config.runs.values() for site in (*run.reads, *run.writes)}
    start = Beginning(source, sites, len(config.runs))
    runs = [
        start.run(name, run.recipe, run.training, run.reads, run.writes, lm, mesh) for name, run in config.runs.items()
    ]
    n_lanes = lanes or mesh.data.size
    if saved is not None and out is not None:
        n_lanes = len(saved["source"].get("lanes", [0]))
        if lanes not in (None, n_lanes):
            raise MismatchError(f"the run to resume reads its activations in {n_lanes} lanes, not in {lanes}")
        state = load_shared(out, runs, mesh) if is_shared else share_of(saved, runs, mesh)
    stream = start.stream(runs, n_lanes, mesh)
    if out is not None and mesh.is_first:
        warn_if_short(out, mesh.features.size * sum(run.predicted_bytes for run in runs))
    number = 0
    if state is not None:
        stream.load_state_dict(state["source"])
        skipped = state.get("skipped", [0] * len(runs))
        for run, saved, run.n_skipped in zip(runs, state["runs"], skipped, strict=True):
            run.load_state_dict(saved)
        number = state["step"]
    elif output is not None and out is not None:
        with together(mesh):
            if mesh.is_first:
                for run in runs:
                    (out / run.name).mkdir(exist_ok=True)
                write_text(out / CONFIG, config.to_toml())
        checkpoint(output, runs, stream, 0, config.to_dict(), mesh)
    return runs, stream, number


def _was_begun(out: Path) -> bool:
    """Whether a run to resume has a state to go on from; one that was killed before it wrote its first has not.

    Raises DataError for a directory that had states, as what it holds says.
    """
    if checkpoints(out) or shared_checkpoints(out):
        return True
    left = {entry.name for entry in out.iterdir() if not (entry.is_dir() and not any(entry.iterdir()))}
    if not left <= {LOCK, CONFIG}:
        raise DataError(f"nothing to resume: no checkpoint in {out}")
    return False
