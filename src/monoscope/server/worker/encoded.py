"""A text in the features of one dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.core.errors import MismatchError, UserError
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.dictionaries.base import stacked
from monoscope.server.worker.shelf import Facts, Model, Shelf, Target


@dataclass
class Encoded:
    """Activations of one text. ``hidden`` positions at the start are in no ranking.

    keep ``[F]``: features that may be ranked; None for all
    """

    target: Target
    dictionary: Dictionary
    facts: Facts | None
    read: Mapping[Site, Float[Tensor, "_ pos d"]]
    hidden: int
    max_density: float | None

    @cached_property
    def x(self) -> Float[Tensor, "_ pos *site d"]:
        """What the dictionary reads."""
        dtype = next(self.dictionary.parameters()).dtype
        return stacked({site: self.read[site].to(dtype) for site in self.dictionary.reads}, self.dictionary.reads)

    @cached_property
    def gated(self) -> Acts:
        """Activations as the dictionary gives them."""
        return self.dictionary.encode(self.x)

    @cached_property
    def batch(self) -> Acts:
        """Activations ``[row, pos, F]``; where each site has a gate, at the site where it is largest."""
        acts = self.gated
        has_gates = acts.values.ndim > self.x.ndim - (len(self.dictionary.reads) > 1)
        return acts.at_any_gate() if has_gates else acts

    @cached_property
    def acts(self) -> Acts:
        """Activations ``[pos, F]`` of the only row."""
        acts = self.batch
        return Acts(acts.values[0], acts.n_features, None if acts.indices is None else acts.indices[0])

    @cached_property
    def keep(self) -> Bool[Tensor, " F"] | None:
        """Features that fire on no larger share of tokens than asked."""
        if self.max_density is None or self.facts is None:
            return None
        return torch.from_numpy(self.facts.density <= self.max_density).to(self.x.device)

    def strongest(self, top: int) -> tuple[Float32[np.ndarray, "pos top"], np.ndarray]:
        """Per token the largest activations in size, with their signs, and whose they are; 0 where none is left."""
        values = self.acts.values
        if self.keep is not None:
            kept = self.keep if self.acts.indices is None else self.keep[self.acts.indices.long()]
            values = values * kept
        k = min(top, values.shape[-1])
        if k == 0:
            return np.zeros((len(values), 0), np.float32), np.zeros((len(values), 0), np.int64)
        place = values.abs().topk(k, dim=-1).indices
        features = place if self.acts.indices is None else self.acts.indices.gather(-1, place)
        return values.gather(-1, place).float().cpu().numpy(), features.cpu().numpy().astype(np.int64)

    def whole(self) -> dict[str, np.ndarray]:
        """Every feature that fires behind the hidden positions: feature, value, position, mean, n_tokens.

        ``value`` is the largest activation in size; sorted by it.
        """
        token, feature, value = self.acts.coo()
        inside = token >= self.hidden
        if self.keep is not None:
            inside &= self.keep[feature]
        token, feature, value = token[inside].cpu(), feature[inside].cpu(), value[inside].float().cpu()
        order = value.abs().argsort(descending=True, stable=True)
        token, feature, value = token[order].numpy(), feature[order].numpy(), value[order].numpy()
        names, first, inverse, counts = np.unique(feature, return_index=True, return_inverse=True, return_counts=True)
        means = np.bincount(inverse, value, len(names)) / np.maximum(counts, 1)
        ranked = np.argsort(first)  # the first entry of a feature is its largest
        return {
            "feature": names[ranked],
            "value": value[first[ranked]],
            "position": token[first[ranked]],
            "mean": means[ranked],
            "n_tokens": counts[ranked],
        }

    def relative(self, feature: np.ndarray, value: np.ndarray) -> np.ndarray:
        """Values as shares of the features' largest activations in the corpus; NaN where those are not known."""
        if self.facts is None:
            return np.full(value.shape, np.nan)
        largest = np.abs(self.facts.max_act[feature])
        return np.divide(np.abs(value), largest, out=np.full(value.shape, np.nan), where=largest > 0)

    def error(self) -> Float[np.ndarray, " pos"]:
        """``|target - recon|^2 / |target|^2`` at each token, over all sites that are written."""
        recon = self.dictionary.decode(self.gated, self.x)[0].float()
        target = stacked({site: self.read[site].float() for site in self.dictionary.writes}, self.dictionary.writes)[0]
        left, whole = ((x.square().flatten(1).sum(1)) for x in (target - recon, target))
        return (left / whole.clamp_min(1e-12)).cpu().numpy()

    def of(self, feature: int) -> Float[np.ndarray, " pos"]:
        """Activations of one feature; where a threshold decides, of that feature alone."""
        check_feature(self.dictionary, feature)
        selection = self.dictionary.activation.selection
        if "acts" not in self.__dict__ and isinstance(selection, ops.AboveThreshold) and self.dictionary.per_token:
            chosen = torch.tensor([feature], device=self.x.device)
            pre, norm = self.dictionary.preacts_of(self.x, chosen), self.dictionary.score_norm()
            if norm is None or norm.ndim == 1:
                score = pre if norm is None else pre * norm[chosen]
                return (pre.relu() * (score > selection.threshold[chosen]))[0, :, 0].float().cpu().numpy()
        return self.acts.where(torch.tensor([feature], device=self.x.device))[:, 0].float().cpu().numpy()


def encoded(
    shelf: Shelf,
    model: Model,
    target: Target,
    tokens: Int[Tensor, " pos"],
    *,
    hide_first: bool,
    max_density: float | None,
) -> Encoded:
    """A text in a dictionary's features. Raises MismatchError for a dictionary of another model's shape."""
    dictionary = shelf.dictionary(target)
    check_fits(model, target, dictionary)
    read = model.readings.read(tokens, [*dictionary.reads, *dictionary.writes])
    hidden = min(target.skip_first, len(tokens)) if hide_first else 0
    return Encoded(target, dictionary, shelf.facts(target), read, hidden, max_density)


def check_fits(model: Model, target: Target, dictionary: Dictionary) -> None:
    """Raises MismatchError where widths differ; SiteError where the model has no such site."""
    for site in (*dictionary.reads, *dictionary.writes):
        width = model.lm.width(site)
        if dictionary.widths[site] != width:
            raise MismatchError(
                f"{target.name} expects {dictionary.widths[site]} numbers at {site}, and {model.name} has {width} there"
            )


def check_feature(dictionary: Dictionary, feature: int) -> None:
    """Raises UserError for a feature the dictionary does not have."""
    if not 0 <= feature < dictionary.n_features:
        raise UserError(f"no feature {feature}: the dictionary has features 0 to {dictionary.n_features - 1}")
