"""Dictionary: any sparse decomposition of activations, and Wiring, the choice of its weights and sites.

Shapes: F features, d width. ``x`` is read from the language model, ``target`` is what should be reconstructed. Several
sites are an axis before the width: ``[*batch, site, d]``.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.core.batch import ActivationBatch
from monoscope.core.config import Config
from monoscope.core.errors import ConfigError, MismatchError
from monoscope.core.io import fingerprint_tensors
from monoscope.core.notebook import described
from monoscope.core.site import Site
from monoscope.core.stores.remote import Location, location
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.step import Step

if TYPE_CHECKING:
    from monoscope.dictionaries.initialize import Initialization, Origin, Sample


class Dictionary(nn.Module, ABC):
    """Any sparse decomposition of activations: reads at sites, writes at sites.

    ``feature_axes`` names the feature axis of every parameter that has one: with ``features_of`` and
    ``feature_blocks``, all that sharding, pruning and permutation need to know. ``acts_scale`` is None until the
    activation scale is folded into the weights; afterwards ``acts / acts_scale`` are activations in the units of the
    site, and it holds one number for each site where several are read.
    """

    per_token: ClassVar[bool] = True
    """Whether a token's activations depend on that token alone; else sequences are read, ``[sequence, pos, d]``."""

    rates: ClassVar[Mapping[str, float]] = {}
    """Learning rates of some parameters, as multiples of the others'."""

    default_rates: Mapping[str, float] = {}
    """``rates`` beside those, as multiples of the default one, where no learning rate is set."""

    unit_rows: tuple[str, ...] = ()
    """Parameters whose rows keep norm 1 in training: gradients along a row are removed, and its norm restored."""

    group_axes: Mapping[str, int] = {}
    """Axes of parameters that have an entry for each of several groups of consecutive features, equally large."""

    feature_axes: Mapping[str, int]

    config: Any  # the wiring's own Config
    reads: tuple[Site, ...]
    writes: tuple[Site, ...]
    widths: Mapping[Site, int]
    n_features: int
    activation: ActivationFunction
    acts_scale: float | tuple[float, ...] | None
    encode_dtype: torch.dtype | None  # a narrower one selects in it; see ops.encode
    provenance: dict[str, Any]

    @abstractmethod
    def initialize_(self, config: Initialization, sample: Sample, generator: torch.Generator) -> None:
        """Set every parameter, from scaled activations of one sample."""

    @abstractmethod
    def preacts(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch F"]:
        """Pre-activations of every feature."""

    @abstractmethod
    def decoder_norm(self) -> Float[Tensor, "*site F"]:
        """Norm of each feature's decoder; for each site where features are active at some sites only."""

    @abstractmethod
    def score_norm(self) -> Float[Tensor, "*site F"] | None:
        """What pre-activations are multiplied by to score them, without gradient; None where they are their scores."""

    @abstractmethod
    def preacts_of(self, x: Float[Tensor, "*batch d"], features: Int[Tensor, " n"]) -> Float[Tensor, "*batch n"]:
        """Pre-activations of chosen features, with gradients to those features' own weights alone."""

    def largest_of(self, x: Float[Tensor, "*batch d"], features: Int[Tensor, " n"], k: int) -> Acts:
        """The k largest of ``preacts_of`` of each token, those that are positive; the features counted from 0."""
        pre = self.preacts_of(x, features).relu()
        return ops.top_per_token(pre, pre.detach(), k)

    @abstractmethod
    def decode_of(
        self, acts: Acts, x: Float[Tensor, "*batch d"], features: Int[Tensor, " n"]
    ) -> Float[Tensor, "*batch d_out"]:
        """What chosen features reconstruct, without bias and with gradients to their weights alone.

        ``acts`` counts the chosen features from 0.
        """

    @abstractmethod
    def encode(self, x: Float[Tensor, "*batch d"]) -> Acts:
        """Feature activations."""

    @abstractmethod
    def decode(self, acts: Acts, x: Float[Tensor, "*batch d"] | None = None) -> Float[Tensor, "*batch d_out"]:
        """Reconstruction from feature activations; ``x`` is needed where a path leads around the features.

        ``acts`` of the first features alone (``Acts.prefix``) give the reconstruction from those.
        """

    @abstractmethod
    def decoder_rows(self, site: Site, features: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n d_out"] | None:
        """What (chosen) features write at a site per unit of activation; None where that depends on what is read."""

    @abstractmethod
    def encoder_rows(self) -> Float[Tensor, "F d_in"] | None:
        """Directions along which features read, of several sites one behind the other; None where there are none."""

    @property
    def reads_apart(self) -> bool:
        """Whether the features of each read site are known once that site is read, and write no earlier one."""
        return False

    def encode_read(self, number: int, x: Float[Tensor, "*batch d"]) -> Acts:
        """Activations of the features of one read site, counted from 0; for dictionaries that read sites apart."""
        raise NotImplementedError(f"the features of {type(self).__name__} read all its sites at once")

    def contributions_at(
        self,
        x: Float[Tensor, "S T d"],
        sequence: Int[Tensor, " n"],
        features: Int[Tensor, " n"],
        position: Int[Tensor, " n"],
    ) -> Float[Tensor, "n T"]:
        """What each token contributes to single pre-activations; for dictionaries that read sequences."""
        raise NotImplementedError(f"a feature of {type(self).__name__} reads its own token alone")

    @abstractmethod
    def rescale_(self, scale_in: Float[Tensor, " reads"], scale_out: Float[Tensor, " writes"]) -> None:
        """Fold activation scales into the weights: afterwards raw activations give raw reconstructions, exactly.

        ``scale_in`` and ``scale_out`` are what reads and targets were multiplied by in training. Feature activations
        stay as they were, and thresholds follow their scores.
        """

    @torch.no_grad()
    def project_(self) -> None:
        """Return rows to norm 1, and the function's parameters to their domain."""
        for name in self.unit_rows:
            rows = self.get_parameter(name)
            rows.div_(rows.norm(dim=1, keepdim=True).clamp_min(1e-12))
        self.activation.project_()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.state_dict().values())).device

    def config_dict(self) -> dict[str, Any]:
        """The wiring and function that rebuild this dictionary, as a recipe's plain table."""
        return {"wiring": self.config.to_dict(), "function": self.activation.config.to_dict()}

    def features_of(self, parameter: str) -> range:
        """Features that the feature axis of a parameter runs over."""
        return range(self.n_features)

    def share_(self, of: int) -> None:
        """Take the sizes of one of several equal shares of the features, whose parameters are set already.

        Raises ConfigError for a wiring whose features cannot be told apart like that.
        """
        self.n_features //= of
        self.activation.share_(of)

    @property
    def feature_blocks(self) -> tuple[int, ...]:
        """Sizes of the consecutive blocks inside which features may change places."""
        block = self.activation.block or self.n_features
        return (block,) * (self.n_features // block)

    def forward(
        self,
        x: Float[Tensor, "*read d"],
        target: Float[Tensor, "*written d_out"] | None = None,
        mask: Bool[Tensor, "*tokens"] | None = None,
    ) -> Step:
        """Encode and decode; unless given, the target is ``x`` itself where the dictionary writes what it reads.

        ``mask`` is True at the tokens that count; the others are read where the dictionary reads sequences, and never
        reconstructed.
        """
        if target is None and self.reads == self.writes:
            target = x
        if mask is not None and self.per_token:
            same = target is x
            x = x[mask]
            target, mask = x if same else None if target is None else target[mask], None
        if mask is None:
            acts = self.encode(x)
            return Step(self, x, target, acts, self.decode(acts, x))
        acts = self.activate(self.preacts(x)[mask])
        return Step(self, x, None if target is None else target[mask], acts, self.decode(acts, x[mask]), mask)

    def activate(self, pre: Float[Tensor, "*batch F"]) -> Acts:
        """Feature activations of pre-activations; in training the function learns from them what inference needs."""
        norm = self.score_norm()
        acts = self.activation(pre, norm)
        if self.training:
            self.activation.observe(acts.detach(), norm)
        return acts

    def gather(self, batch: ActivationBatch) -> tuple[Tensor, Tensor]:
        """Activations that are read, and those to reconstruct. Raises MismatchError for a missing site."""
        for site in {*self.reads, *self.writes}:
            if site not in batch.activations:
                found = ", ".join(map(str, batch.activations))
                raise MismatchError(f"the dictionary needs activations at {site}; the source gives {found}")
        x = stacked(batch.activations, self.reads)
        return x, x if self.writes == self.reads else stacked(batch.activations, self.writes)

    def frozen(self) -> Self:
        """A copy for inference: evaluation mode, no gradients, the activation function in its frozen form."""
        twin = copy.deepcopy(self)
        twin.activation = twin.activation.frozen()
        if (absorbed := self.activation.absorbed) is not None:
            twin.rescale_preacts_(*absorbed)
            if (norm := self.score_norm()) is not None:
                twin.activation.rescale_scores_(norm)
        return twin.eval().requires_grad_(False)

    @torch.no_grad()
    def rescale_preacts_(self, scale: Float[Tensor, " F"], shift: Float[Tensor, " F"]) -> None:
        """Make the encoder compute ``scale * pre + shift``, feature by feature."""
        for name, axis in self.feature_axes.items():
            role = name.split(".")[0]
            if role not in ("W_enc", "b_enc"):
                continue
            parameter, features = self.get_parameter(name), self.features_of(name)
            own = slice(features.start, features.stop)
            parameter.mul_(scale[own].view([-1 if i == axis else 1 for i in range(parameter.ndim)]))
            if role == "b_enc":
                parameter.add_(shift[own])

    def fold_(self, scale_in: float | Tensor, scale_out: float | Tensor) -> None:
        """``rescale_``, once. A second fold is refused."""
        if self.acts_scale is not None:
            raise MismatchError(f"the activation scale {self.acts_scale} is folded into these weights already")
        scales_in, scales_out = (torch.as_tensor(scale).reshape(-1) for scale in (scale_in, scale_out))
        with torch.no_grad():
            self.rescale_(scales_in, scales_out)
        scales = tuple(scales_in.tolist())
        self.acts_scale = scales[0] if len(scales) == 1 else scales

    def _repr_html_(self) -> str:
        """What a notebook shows: what the dictionary is, and how it was trained."""
        shape, source = self.config_dict(), self.provenance.get("source", {})
        return described(
            f"{type(self).__name__} of {self.n_features:,} features",
            {
                "reads": [str(site) for site in self.reads],
                "writes": None if self.writes == self.reads else [str(site) for site in self.writes],
                **{f"{part}": ", ".join(f"{k} {v}" for k, v in shape[part].items()) for part in ("wiring", "function")},
                "trained on": source.get("model", {}).get("name"),
                "tokens": self.provenance.get("training", {}).get("tokens"),
            },
        )

    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        return fingerprint_tensors(self.state_dict())

    def save(self, path: Location | str, *, force: bool = False) -> None:
        """Write ``config.toml`` and ``weights.safetensors``, frozen. See ``dictionaries.saved``."""
        from monoscope.dictionaries.saved import save

        save(self, location(path), force=force)


def stacked(values: Mapping[Site, Tensor], sites: tuple[Site, ...]) -> Float[Tensor, "*batch d"]:
    """Values at sites: of one as they are, of several on an axis before the width."""
    return values[sites[0]] if len(sites) == 1 else torch.stack([values[site] for site in sites], dim=-2)


def one_width(sites: tuple[Site, ...], widths: Mapping[Site, int]) -> int:
    """The width that sites share. Raises ConfigError where theirs differ."""
    found = {widths[site] for site in sites}
    if len(found) > 1:
        each = ", ".join(f"{site} has {widths[site]}" for site in sites)
        raise ConfigError(f"the sites of one dictionary share one width; {each}")
    return found.pop()


class Wiring(Config, family="wiring"):
    """Which sites a dictionary reads and writes, and through what weights."""

    accepts_terms: ClassVar[frozenset[str] | None] = None
    """Kinds of the only terms that train this wiring; None where any may."""

    refuses_terms: ClassVar[Mapping[str, str]] = {}
    """Kinds of terms that make no sense with this wiring, each with the reason."""

    accepts_functions: ClassVar[frozenset[str] | None] = None
    """Kinds of the only activation functions this wiring takes; None where any will do."""

    has_layers: ClassVar[bool] = False
    """Whether features belong to layers, so that a function may choose within each or among all."""

    grows: ClassVar[bool] = False
    """Whether features are taken from data, one by one, in place of training by gradient."""

    n_features: int

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """What a recipe of this wiring holds where it says nothing: its function and terms, as tables."""
        return {}

    @property
    def encodes_linearly(self) -> bool:
        """Whether pre-activations are linear in what is read, up to a constant, and activations follow from them."""
        return True

    @property
    def needs_model(self) -> bool:
        """Whether settings are open that only the language model can fill in."""
        return False

    def completed(self, origin: Origin) -> Self:
        """With open settings taken from the model's own weights. Raises ConfigError where those do not fit."""
        return self

    def build(
        self,
        function: ActivationFunction.Config,
        reads: tuple[Site, ...],
        writes: tuple[Site, ...],
        widths: Mapping[Site, int],
    ) -> Dictionary:
        """An uninitialized dictionary. Raises ConfigError where the choices do not fit together."""
        raise NotImplementedError
