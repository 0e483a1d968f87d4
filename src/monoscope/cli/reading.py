"""A language model, or several, and the text they read, as configuration. Heavy to import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from monoscope.core.config import Config
from monoscope.core.device import usable
from monoscope.core.errors import ConfigError, nearest
from monoscope.core.site import Site
from monoscope.demo import MODEL
from monoscope.harvest.live import SkipPolicy, live
from monoscope.harvest.source import ActivationSource
from monoscope.harvest.store import DTYPES, DtypeName
from monoscope.harvest.text import StandardLibrary, TextSource
from monoscope.harvest.text.pack import Bos, TokenWindows
from monoscope.harvest.together import together
from monoscope.models.language_model import LanguageModel

BUNDLED = "bundled"


class Reading(Config):
    """A language model, or several side by side, and the text they read."""

    model: str = Field(default=BUNDLED, description="hub id or directory; 'bundled': the model that comes along")
    models: dict[str, str] = Field(
        default_factory=dict, description="several by label, in place of model; 'id@revision' is a revision on the hub"
    )
    revision: str | None = None
    trust_remote_code: bool = False
    device: str = Field(
        default="auto",
        description="'cpu', 'cuda', 'cuda:1', ...; 'auto': a GPU where there is one, each process its own",
    )
    dtype: DtypeName = Field(default="fp32", description="precision of the model")
    text: TextSource = StandardLibrary()
    context: int = Field(default=256, ge=2, description="tokens in a window")
    bos: Bos = "window"
    text_tokens: int | None = Field(default=None, ge=1, description="tokens of text to read; None: all there are")
    windows_per_batch: int = Field(default=16, ge=1)
    skip: SkipPolicy = SkipPolicy()

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if self.models and self.model != BUNDLED:
            raise ValueError(
                f"model is {self.model!r}, and models are given as well; name it among them, or leave it out"
            )
        if self.models and self.revision is not None:
            raise ValueError("revision belongs to one model; of several, write it behind the name, as in 'id@revision'")
        for label in self.models:
            Site(None, "embed", model=label)
            if not label:
                raise ValueError("models: each needs a label, as in models = {base = '...', tuned = '...'}")
        return self

    def language_models(self) -> dict[str, LanguageModel]:
        """The models by their labels, loaded; a single one has the label ""."""
        if not self.models:
            return {"": self._load(self.model, self.model, self.revision)}
        loaded = {}
        for label, named in self.models.items():
            name, at, revision = named.rpartition("@")
            is_revision = bool(at and name) and not Path(named).exists()
            loaded[label] = self._load(named, name if is_revision else named, revision if is_revision else None)
        return loaded

    def language_model(self) -> LanguageModel:
        """The model, loaded. Raises ConfigError where there are several."""
        if self.models:
            raise ConfigError(f"models: one model can be used here, found {', '.join(self.models)}; set model instead")
        return self.language_models()[""]

    def _load(self, shown: str, path_or_id: str, revision: str | None) -> LanguageModel:
        lm = LanguageModel.from_pretrained(
            MODEL if path_or_id == BUNDLED else path_or_id,
            device=usable(self.device),
            dtype=DTYPES[self.dtype],
            trust_remote_code=self.trust_remote_code,
            revision=revision,
        )
        lm.name = shown
        return lm

    def placed(self, sites: Iterable[Site]) -> tuple[Site, ...]:
        """Sites with their model's label: one without stands for the same place in every model, in their order."""
        placed: dict[Site, None] = {}
        for site in sites:
            if site.model and site.model not in self.models:
                known = nearest(site.model, self.models) if self.models else "there is one model, which has no label"
                raise ConfigError(f"{site}: no model is labeled {site.model!r}; {known}")
            labels = [site.model] if site.model or not self.models else list(self.models)
            placed |= dict.fromkeys(site.of(label) for label in labels)
        return tuple(placed)

    def windows(self, lm: LanguageModel) -> TokenWindows:
        """The text, tokenized and packed."""
        return self.text.windows(lm, context=self.context, bos=self.bos, tokens=self.text_tokens)

    def mixed(self, lms: Mapping[str, LanguageModel], seed: int) -> TokenWindows:
        """The text, tokenized for the models, which share a vocabulary, in random order."""
        return self.windows(next(iter(lms.values()))).shuffled(seed, at_once=self.windows_per_batch)

    def source(
        self, lms: Mapping[str, LanguageModel], windows: TokenWindows, sites: Iterable[Site]
    ) -> ActivationSource:
        """Activations of the models at sites with their labels, as they read the windows."""
        wanted = tuple(sites)
        sources = {
            label: live(
                lm,
                windows,
                [site.of("") for site in wanted if site.model == label],
                windows_per_batch=self.windows_per_batch,
                skip=self.skip,
            )
            for label, lm in lms.items()
            if any(site.model == label for site in wanted)
        }
        return together(sources) if self.models else sources[""]
