"""What verbs are told: a model, the text it reads, and what to do with the activations. Heavy to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from pydantic import Field, model_validator

from monoscope.core.config import Config
from monoscope.core.errors import ConfigError, MismatchError
from monoscope.core.site import Site
from monoscope.demo import MODEL
from monoscope.dictionaries import Dictionary, Recipe
from monoscope.features import Analysis
from monoscope.harvest.live import SkipPolicy, live
from monoscope.harvest.pack import Bos, TokenWindows
from monoscope.harvest.source import ActivationSource
from monoscope.harvest.store import DTYPES, ActivationStore, DtypeName
from monoscope.harvest.text import StandardLibrary, TextSource
from monoscope.models.language_model import LanguageModel
from monoscope.training import Training

BUNDLED = "bundled"


class Reading(Config):
    """A language model and the text it reads."""

    model: str = Field(default=BUNDLED, description="hub id or directory; 'bundled': the model that comes along")
    revision: str | None = None
    trust_remote_code: bool = False
    device: str = Field(default="auto", description="'cpu', 'cuda', ...; 'auto': a GPU where there is one")
    dtype: DtypeName = Field(default="fp32", description="precision of the model")
    text: TextSource = StandardLibrary()
    context: int = Field(default=256, ge=2, description="tokens in a window")
    bos: Bos = "window"
    text_tokens: int | None = Field(default=None, ge=1, description="tokens of text to read; None: all there are")
    windows_per_batch: int = Field(default=16, ge=1)
    skip: SkipPolicy = SkipPolicy()

    def language_model(self) -> LanguageModel:
        """The model, loaded."""
        lm = LanguageModel.from_pretrained(
            MODEL if self.model == BUNDLED else self.model,
            device=_device(self.device),
            dtype=DTYPES[self.dtype],
            trust_remote_code=self.trust_remote_code,
            revision=self.revision,
        )
        lm.name = self.model
        return lm

    def windows(self, lm: LanguageModel) -> TokenWindows:
        """The text, tokenized and packed."""
        return self.text.windows(lm, context=self.context, bos=self.bos, tokens=self.text_tokens)

    def source(self, lm: LanguageModel, windows: TokenWindows, sites: tuple[Site, ...]) -> ActivationSource:
        """Activations of the model at sites, as it reads the windows."""
        return live(lm, windows, sites, windows_per_batch=self.windows_per_batch, skip=self.skip)


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return name


class HarvestConfig(Reading):
    """Activations to read and store."""

    sites: tuple[Site, ...] = Field(min_length=1)
    store_dtype: DtypeName = "fp32"
    shard_tokens: int = Field(default=2**17, ge=1)
    seed: int = Field(default=0, ge=0, description="order of the windows")


class TrainConfig(Reading):
    """Dictionaries to train in one pass, on a model as it reads or on stored activations."""

    activations: str | None = Field(default=None, description="a store to train on, in place of a model and text")
    reads: tuple[Site, ...] = Field(default=(), description="sites; (): the only one of the store")
    writes: tuple[Site, ...] = Field(default=(), description="sites; (): those that are read")
    recipe: Recipe = Recipe()
    training: Training = Training()
    sweep: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="one dictionary for each name; its table replaces keys of recipe and training"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = sorted(name for name, value in Reading() if value != getattr(self, name))
        if self.activations is not None and given:
            raise ValueError(f"activations are read from {self.activations}; {', '.join(given)} would have no effect")
        if self.activations is None and not self.reads:
            raise ValueError("reads: name the site to read, as in reads = ['2.resid_post']")
        return self

    def open(self) -> ActivationSource:
        """The activations to train on; windows of text in random order."""
        if self.activations is not None:
            return ActivationStore(self.activations)
        lm = self.language_model()
        windows = self.windows(lm).shuffled(self.training.seed)
        return self.source(lm, windows, tuple(dict.fromkeys((*self.reads, *self.writes))))

    def runs(self) -> dict[str, tuple[Recipe, Training]]:
        """Recipe and training of every dictionary of the sweep, by name."""
        base = {"recipe": self.recipe.to_dict(), "training": self.training.to_dict()}
        return {name: _run(name, merged(base, table)) for name, table in self.sweep.items()}


class OfDictionary(Reading):
    """A dictionary to examine. What is not set here is as it was when the dictionary was trained."""

    dictionary: str = Field(description="directory of the dictionary")
    any_model: bool = Field(default=False, description="accept a model with other weights than it was trained on")

    def as_trained(self, dictionary: Dictionary) -> Self:
        """The same settings, with those of the training in the place of defaults."""
        source = dictionary.provenance.get("source", {})
        trained = {name: source.get(name) for name in ("text", "context", "bos", "skip")}
        trained["model"] = source.get("model", {}).get("name")
        adopted = {name: value for name, value in trained.items() if value and name not in self.model_fields_set}
        return self.from_dict(self.to_dict() | adopted)

    def check_model(self, dictionary: Dictionary, lm: LanguageModel) -> None:
        """Raises MismatchError for a model with other weights than the dictionary was trained on."""
        trained = dictionary.provenance.get("source", {}).get("model", {})
        if not self.any_model and trained.get("fingerprint", lm.fingerprint()) != lm.fingerprint():
            raise MismatchError(
                f"{self.dictionary} was trained on {trained.get('name')!r}, and {self.model!r} in {self.dtype} has "
                "other weights; name that model, or set any_model = true"
            )


class AnalyzeConfig(OfDictionary):
    """What to learn about the features of a dictionary, and from which text."""

    analysis: Analysis = Analysis()


class EvaluateConfig(OfDictionary):
    """What to measure a dictionary on: text it was not trained on."""

    def as_trained(self, dictionary: Dictionary) -> Self:
        """The same settings, with those of the training in the place of defaults; but held-out text."""
        settled = super().as_trained(dictionary)
        if "text" in self.model_fields_set:
            return settled
        if not isinstance(settled.text, StandardLibrary):
            raise ConfigError(f"text: name text the dictionary was not trained on, which was {settled.text.to_dict()}")
        return settled.model_copy(update={"text": StandardLibrary(split="held_out")})


def _run(name: str, table: Mapping[str, Any]) -> tuple[Recipe, Training]:
    if unknown := table.keys() - {"recipe", "training"}:
        raise ConfigError(f"sweep.{name}: unknown key {min(unknown)!r}; known: recipe, training")
    try:
        return Recipe.from_dict(table["recipe"]), Training.from_dict(table["training"])
    except ConfigError as error:
        raise ConfigError(f"sweep.{name}: {error}") from None


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A table with some of its keys replaced, at any depth; a table of another ``kind`` is replaced as a whole."""
    if changes.get("kind", base.get("kind")) != base.get("kind"):
        return dict(changes)
    out = dict(base)
    for key, value in changes.items():
        before = out.get(key)
        out[key] = merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return out
