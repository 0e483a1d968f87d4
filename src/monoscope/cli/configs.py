"""What verbs are told: what is read, and what to do with the activations. Heavy to import."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self, TypeVar

import torch
from pydantic import Field, model_validator

from monoscope.cli.reading import Reading
from monoscope.core.errors import ConfigError, MismatchError
from monoscope.core.ranks import rank_and_ranks
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary, Recipe
from monoscope.features import Analysis
from monoscope.harvest.source import ActivationSource
from monoscope.harvest.store import ActivationStore, DtypeName, OnCorrupt
from monoscope.harvest.text import StandardLibrary, TextSource
from monoscope.models.language_model import LanguageModel
from monoscope.parallel.mesh import meshed
from monoscope.training import Parallel, RunConfig, Training
from monoscope.training.suite import Suite

REPORT_TOKENS = 20_000  # of text, on which all dictionaries of a suite are measured


class Bounded(Reading):
    """What takes long enough, and memory enough, for a look ahead."""

    memory_gb: float | None = Field(
        default=None, gt=0, description="GB it may take, by prediction; None: what is free when it starts"
    )
    share_model: bool = Field(
        default=False, description="under torchrun, each process holds a share of the model's blocks, in place of all"
    )

    @model_validator(mode="after")
    def _one_is_shared(self) -> Self:
        if self.share_model and self.models:
            raise ValueError("share_model: the weights of one model can be shared; of several, each process holds all")
        return self

    @contextmanager
    def sharing(self, lm: LanguageModel | None, sites: Iterable[Site]) -> Iterator[None]:
        """Within the block, the processes that torchrun started share the model's weights, if they are to."""
        if not self.share_model or lm is None or rank_and_ranks()[1] == 1:
            yield
            return
        with meshed(device=lm.device) as mesh:
            lm.share_weights_(mesh.every, tuple(sites))
            yield


class HarvestConfig(Bounded):
    """Activations to read and store."""

    sites: tuple[Site, ...] = Field(min_length=1)
    store_dtype: DtypeName = "fp32"
    shard_tokens: int = Field(default=2**17, ge=1)
    seed: int = Field(default=0, ge=0, description="order of the windows")

    @model_validator(mode="after")
    def _labels_exist(self) -> Self:
        self.placed(self.sites)
        return self


class TrainConfig(Bounded):
    """Dictionaries to train in one pass, on a model as it reads or on stored activations."""

    activations: str | None = Field(default=None, description="a store to train on, in place of a model and text")
    on_corrupt: OnCorrupt = Field(default="stop", description="at a corrupt shard of the store: 'stop', or 'skip' it")
    reads: tuple[Site, ...] = Field(default=(), description="sites; (): the only one of the store")
    writes: tuple[Site, ...] = Field(default=(), description="sites; (): those that are read")
    recipe: Recipe = Recipe()
    training: Training = Training()
    parallel: Parallel = Field(default=Parallel(), description="how processes that torchrun starts train together")
    sweep: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="one dictionary for each name; its table replaces keys of recipe and training, and the sites",
    )
    suite: Suite | None = Field(
        default=None, description="dictionaries at many places and in several widths, in place of reads and writes"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = sorted(name for name, value in Reading() if value != getattr(self, name))
        given += ["share_model"] * self.share_model
        if self.activations is not None and given:
            raise ValueError(f"activations are read from {self.activations}; {', '.join(given)} would have no effect")
        return self

    @model_validator(mode="after")
    def _suite_stands_alone(self) -> Self:
        if self.suite is None:
            return self
        for key in ("reads", "writes", "sweep", "activations", "models"):
            if getattr(self, key):
                raise ValueError(f"suite says what is trained, on one model as it reads; {key} would have no effect")
        if self.suite.held_out is None and not isinstance(self.text, StandardLibrary):
            raise ValueError(f"suite.held_out: name text to measure on, other than {self.text.to_dict()}")
        return self

    @model_validator(mode="after")
    def _runs_exist(self) -> Self:
        if self.suite is not None:
            return self
        for name, run in self.runs().items():
            where = f"sweep.{name}: " if name else ""
            if self.activations is None and not run.reads:
                raise ValueError(f"{where}reads: name the site to read, as in reads = ['2.resid_post']")
            if run.recipe.needs_model and self.activations is not None:
                raise ValueError(
                    f"{where}the recipe asks the language model, for a term or its start; train on a model as it "
                    f"reads, in place of {self.activations}"
                )
            if run.recipe.needs_model and self.share_model:
                raise ValueError(
                    f"{where}the recipe asks the language model, for a term or its start, which each process has to "
                    "hold whole; leave share_model out"
                )
            if run.recipe.needs_model and self.models:
                raise ValueError(
                    f"{where}the recipe asks the language model, for a term or its start; name one model, in place "
                    f"of {', '.join(self.models)}"
                )
        return self

    def held_out(self) -> TextSource:
        """Text to measure a suite on."""
        assert self.suite is not None, "only suites are measured once they are trained"
        return self.suite.held_out or StandardLibrary(split="held_out")

    def open(self) -> tuple[ActivationSource, LanguageModel | None]:
        """The activations to train on, windows of text in random order; and the model, where there is one alone."""
        if self.activations is not None:
            return ActivationStore(self.activations, on_corrupt=self.on_corrupt), None
        lms = self.language_models()
        self._check_builds(lms)
        windows = self.mixed(lms, self.training.seed)
        sites = dict.fromkeys(site for run in self.runs().values() for site in (*run.reads, *run.writes))
        return self.reading().source(lms, windows, sites), lms.get("")

    def reading(self) -> Self:
        """The same settings, with tokens left out that are NaN or infinite where training is to skip such."""
        if self.training.on_nonfinite == "stop":
            return self
        return self.model_copy(update={"skip": self.skip.model_copy(update={"not_finite": True})})

    def _check_builds(self, lms: Mapping[str, LanguageModel]) -> None:
        """Raises ConfigError for a dictionary that cannot be, before any text is read."""
        for name, run in self.runs().items():
            if run.recipe.wiring.needs_model:
                continue  # what it takes from the model, training finds out first of all
            sites = {*run.reads, *run.writes}
            widths = {site: lms[site.model].width(replace(site, model="")) for site in sites}
            try:
                with torch.device("meta"):
                    run.recipe.build(run.reads, run.writes or run.reads, widths)
            except ConfigError as error:
                raise ConfigError(f"sweep.{name}: {error}" if name else str(error)) from None

    def runs(self) -> dict[str, RunConfig]:
        """Sites, recipe and training of every dictionary of the sweep by name; of the only one, the name is ""."""
        base = {"recipe": self.recipe.to_dict(), "training": self.training.to_dict()}
        base |= {"reads": self.reads, "writes": self.writes}
        return {name: self._run(name, base, table) for name, table in (self.sweep or {"": {}}).items()}

    def _run(self, name: str, base: Mapping[str, Any], changes: Mapping[str, Any]) -> RunConfig:
        table = merged(base, changes)
        if _wiring(table) not in (None, _wiring(base)):
            # Another kind of wiring has a function, terms and a scale of its own.
            table["recipe"] = merged({"initialize": base["recipe"]["initialize"]}, changes["recipe"])
        try:
            run = RunConfig.from_dict(table)
        except ConfigError as error:
            raise ConfigError(f"sweep.{name}: {error}") from None
        if self.activations is not None:
            return run
        return run.model_copy(update={"reads": self.placed(run.reads), "writes": self.placed(run.writes)})


class OfTrained(Reading):
    """What was trained is to be examined. What is not set here is as it was in training."""

    any_model: bool = Field(default=False, description="accept a model with other weights than it was trained on")

    def as_trained(self, dictionary: Dictionary) -> Self:
        """The same settings, with those of the training in the place of defaults."""
        source = dictionary.provenance.get("source", {})
        trained = {name: source.get(name) for name in ("text", "context", "bos", "skip")}
        names = {label: model.get("name") for label, model in _trained_on(dictionary).items()}
        if not {"model", "models"} & self.model_fields_set:
            trained |= {"model": names[""]} if "" in names else {"models": names}
        adopted = {name: value for name, value in trained.items() if value and name not in self.model_fields_set}
        return self.from_dict(self.to_dict() | adopted)

    def check_models(self, dictionary: Dictionary, lms: Mapping[str, LanguageModel]) -> None:
        """Raises MismatchError for a model with other weights than the dictionary was trained on."""
        for label, trained in _trained_on(dictionary).items():
            if self.any_model or "fingerprint" not in trained:
                continue
            if label not in lms:
                raise MismatchError(
                    f"the dictionary was trained on {trained.get('name')!r}"
                    f"{f' under the label {label!r}' if label else ''}, which is not here; name that model, or set "
                    "any_model = true"
                )
            if trained["fingerprint"] != lms[label].fingerprint():
                raise MismatchError(
                    f"the dictionary was trained on {trained.get('name')!r}, and {lms[label].name!r} in "
                    f"{self.dtype} has other weights; name that model, or set any_model = true"
                )


def _trained_on(dictionary: Dictionary) -> dict[str, dict[str, Any]]:
    """Name and fingerprint of each model a dictionary was trained on, by label; the only one has the label ""."""
    source = dictionary.provenance.get("source", {})
    model = source.get("model", {})
    return {label: own.get("model", model) for label, own in source.get("sources", {"": {}}).items()}


class OfDictionary(OfTrained):
    """A dictionary to examine."""

    dictionary: str = Field(description="directory of the dictionary")


class AnalyzeConfig(OfDictionary, Bounded):
    """What to learn about the features of a dictionary, and from which text."""

    analysis: Analysis = Analysis()


class EvaluateConfig(OfDictionary):
    """What to measure a dictionary on: text it was not trained on."""

    def as_trained(self, dictionary: Dictionary) -> Self:
        """The same settings, with those of the training in the place of defaults; but held-out text."""
        return _held_out(super().as_trained(dictionary), is_named="text" in self.model_fields_set)


class ReportConfig(OfTrained):
    """What to measure a suite on: text it was not trained on, in longer windows, and a finetuned copy of the model."""

    suite: str = Field(description="directory of the suite")
    longer: int | None = Field(default=None, ge=2, description="tokens in a window; None: all the model reads")
    text_tokens: int | None = Field(default=None, ge=1, description="tokens of text to read; None: 20,000")
    tuned: str = Field(default="", description="a finetuned copy of the model, by hub id or directory")
    threshold: float = Field(default=0.7, gt=0, le=1, description="cosine from which two features count as near")

    def as_trained(self, dictionary: Dictionary) -> Self:
        """The same settings, with those of the training in the place of defaults; but held-out text."""
        settled = _held_out(super().as_trained(dictionary), is_named="text" in self.model_fields_set)
        if settled.longer is not None and settled.longer <= settled.context:
            raise ConfigError(f"longer: the suite was trained on {settled.context} tokens, found {settled.longer}")
        return settled.model_copy(update={"text_tokens": settled.text_tokens or REPORT_TOKENS})

    def tuned_model(self) -> LanguageModel | None:
        """The finetuned copy, loaded, where one is named."""
        return self._load(self.tuned, self.tuned, None) if self.tuned else None


R = TypeVar("R", bound=Reading)


def _held_out(settled: R, *, is_named: bool) -> R:
    """Settings with the held-out part of their text, unless the user named one."""
    if is_named:
        return settled
    if not isinstance(settled.text, StandardLibrary):
        raise ConfigError(f"text: name text the dictionary was not trained on, which was {settled.text.to_dict()}")
    return settled.model_copy(update={"text": StandardLibrary(split="held_out")})


def _wiring(run: Mapping[str, Any]) -> Any:
    """Kind of the wiring in the table of a run; None where there is none."""
    for key in ("recipe", "wiring", "kind"):
        run = run.get(key, {}) if isinstance(run, Mapping) else {}
    return run or None


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A table with some of its keys replaced, at any depth; a table of another ``kind`` is replaced as a whole."""
    if changes.get("kind", base.get("kind")) != base.get("kind"):
        return dict(changes)
    out = dict(base)
    for key, value in changes.items():
        before = out.get(key)
        out[key] = merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return out
