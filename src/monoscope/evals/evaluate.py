"""Evaluate a dictionary on text: how faithful it is, how its features fire, and what splicing it in costs the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import DataError, MismatchError
from monoscope.core.progress import progress
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.evals.evaluation import Evaluation, LossResult
from monoscope.evals.metrics import Fidelity, FidelityResult, Firing, Moments, NextToken
from monoscope.harvest import ActivationSource, SkipPolicy, TokenWindows, live, together
from monoscope.harvest.live import special_tokens
from monoscope.interventions import patch, splice
from monoscope.interventions.edits import Edits
from monoscope.interventions.passage import writes_of
from monoscope.models import LanguageModel

SKIP = SkipPolicy()


def evaluate(
    lm: LanguageModel | Mapping[str, LanguageModel],
    dictionary: Dictionary,
    windows: TokenWindows,
    *,
    batch: int = 16,
    skip: SkipPolicy = SKIP,
    model: str = "",
) -> Evaluation:
    """Fidelity, firing and loss recovered of a dictionary on token windows, which should be held-out text.

    Tokens that ``skip`` leaves out, as training does (padding, special tokens, the first position of each window),
    enter no metric, and there the site keeps its value. Losses are means over the tokens that count and have a next one
    in their window. The mean that replaces activations, and that the legacy ratio needs, is taken over the same tokens
    in a pass of its own. ``batch``: windows at once; their logits are in memory twice.

    lm, model: for a dictionary of several models all of them by label, and the label of the one that is evaluated

    At several write sites all are replaced at once. A dictionary that reads layers apart reads what its reconstructions
    of earlier ones made of later ones; other reconstructions are of the model as it is.

    Raises MismatchError for a dictionary of other widths than the model's or of models that are not given, DataError
    where no token counts.
    """
    label, writes = writes_of(dictionary, model)
    lms = _models(lm, dictionary, label)
    _check_widths(lms, dictionary)
    lm = lms[label]
    sources = _sources(lms, dictionary, windows, batch, skip)
    source, first = together(sources) if len(sources) > 1 or label else sources[label], 0
    with torch.no_grad():
        special = None if sources[label].info["skip"]["special"] else special_tokens(lm)
        measured = _Measurement(lm, dictionary, label, _means(source, writes), special)
        with progress("evaluate", source.n_tokens) as bar:
            for activations in source:
                length = next(iter(activations.activations.values())).shape[1]
                measured.update(activations, windows.mask[first : first + batch, :length])
                bar.advance(activations.n_tokens)
                first += batch
    if measured.losses.n == 0:
        raise DataError(f"no token that counts has a next one: the windows hold {windows.context} tokens")
    trained_on = _trained_on(dictionary, label)
    return Evaluation(
        model=lm.name,
        same_model=None if trained_on is None else trained_on == lm.fingerprint(),
        dictionary=dictionary.fingerprint(),
        reads=tuple(map(str, dictionary.reads)),
        writes=tuple(map(str, dictionary.writes)),
        n_windows=len(windows),
        excluded=sources[label].info["excluded"],
        fidelity=measured.fidelity.result(),
        firing=measured.firing.result(),
        losses=LossResult.of(measured.losses),
        special=_result(measured.by_kind.get(True)),
        other=_result(measured.by_kind.get(False)),
        label=label,
        by_site={str(site): found.result() for site, found in measured.by_site.items()} or None,
        rereads=measured.rereads,
    )


def _result(fidelity: Fidelity | None) -> FidelityResult | None:
    """The metrics; None where there were no two tokens that differ."""
    return None if fidelity is None or fidelity.targets.spread <= 0 else fidelity.result()


def _models(
    lm: LanguageModel | Mapping[str, LanguageModel], dictionary: Dictionary, label: str
) -> Mapping[str, LanguageModel]:
    """Every model whose activations the dictionary reads or writes, by label."""
    needed = dict.fromkeys(site.model for site in (*dictionary.reads, *dictionary.writes))
    given = {label: lm} if isinstance(lm, LanguageModel) else lm
    if missing := [name for name in needed if name not in given]:
        raise MismatchError(
            f"the dictionary reads the models {', '.join(map(repr, needed))}, and {missing[0]!r} is not given; pass "
            "all of them by label, as in evaluate({'base': base, 'tuned': tuned}, ...)"
        )
    return {name: given[name] for name in needed}


def _check_widths(lms: Mapping[str, LanguageModel], dictionary: Dictionary) -> None:
    for site, width in dictionary.widths.items():
        lm = lms[site.model]
        if lm.width(site.of("")) != width:
            raise MismatchError(
                f"the dictionary has {width} values at {site}, and {lm.name} has {lm.width(site.of(''))}"
            )


def _sources(
    lms: Mapping[str, LanguageModel], dictionary: Dictionary, windows: TokenWindows, batch: int, skip: SkipPolicy
) -> dict[str, ActivationSource]:
    """Activations of each model at the dictionary's sites in it."""
    sites = dict.fromkeys((*dictionary.reads, *dictionary.writes))
    return {
        label: live(
            lm, windows, [site.of("") for site in sites if site.model == label], windows_per_batch=batch, skip=skip
        )
        for label, lm in lms.items()
    }


def _trained_on(dictionary: Dictionary, label: str) -> str | None:
    """Fingerprint of the model that a dictionary was trained on, under a label."""
    source: dict[str, Any] = dictionary.provenance.get("source", {})
    model = source.get("sources", {}).get(label, {}).get("model", source.get("model", {}))
    return model.get("fingerprint")


def _means(source: ActivationSource, sites: list[Site]) -> dict[Site, Float[Tensor, " d"]]:
    """Mean activation at each site over the tokens that count."""
    moments = {site: Moments(source.widths[site]) for site in sites}
    with progress("mean activation", source.n_tokens) as bar:
        for batch in source:
            flat = batch.flat()
            for site, seen in moments.items():
                seen.update(flat.activations[site])
            bar.advance(flat.n_tokens)
    if any(seen.n == 0 for seen in moments.values()):
        raise DataError("no token of these windows counts: the text is empty, or skip leaves out all of it")
    return {site: seen.mean for site, seen in moments.items()}


class _Measurement:
    """The accumulators of one evaluation, fed by batches of windows."""

    def __init__(
        self,
        lm: LanguageModel,
        dictionary: Dictionary,
        label: str,
        means: dict[Site, Float[Tensor, " d"]],
        special: Int[Tensor, " n"] | None,
    ) -> None:
        self.lm, self.dictionary, self.label, self.special = lm, dictionary, label, special
        self.writes, self.means = list(means), torch.stack(list(means.values()))
        self.numbers = [dictionary.writes.index(site) for site in self.writes]
        self.rereads = dictionary.reads_apart and len(self.writes) > 1
        flat = self.means.flatten()
        self.by_kind = {} if special is None else {kind: Fidelity(len(flat)) for kind in (True, False)}
        self.fidelity, self.losses = Fidelity(len(flat), flat), NextToken()
        self.by_site = {site: Fidelity(len(mean), mean) for site, mean in means.items()} if len(means) > 1 else {}
        norm = dictionary.decoder_norm()
        self.is_gated = norm.ndim > 1
        self.firing = Firing(norm.norm(dim=0) if self.is_gated else norm)

    def update(self, batch: ActivationBatch, not_padding: Bool[Tensor, "n context"]) -> None:
        """Add one batch of windows."""
        tokens, counts = batch.tokens, batch.mask
        assert tokens is not None, "a live source gives tokens"
        assert counts is not None, "a live source says which tokens count"
        step = self.dictionary(*self.dictionary.gather(batch), counts)
        target, recon = self._here(step.target), self._here(step.recon)
        self._add_fidelity(target, recon, tokens[counts])
        self.firing.update(step.acts.at_any_gate() if self.is_gated else step.acts)

        mask = None if bool(not_padding.all()) else not_padding.to(counts.device)
        predicts = counts[:, :-1] & not_padding[:, 1:].to(counts.device)
        wanted = tokens[:, 1:][predicts]
        clean = self.lm.logits(tokens, mask)[:, :-1][predicts]
        self.losses.update(wanted, clean)
        replacements = {
            "spliced": None if self.rereads else recon,
            "zero": torch.zeros_like(recon),
            "mean": self.means.to(recon).expand_as(recon),
        }
        for name, replacement in replacements.items():
            if replacement is None:
                edits = splice(self.dictionary, error="drop", skip_first=0, where=counts, model=self.label)
            else:
                edits = self._patches(batch, replacement)
            with self.lm.edit(edits):
                changed = self.lm.logits(tokens, mask)[:, :-1][predicts]
            self.losses.update_changed(name, wanted, clean, changed)

    def _here(self, values: Tensor | None) -> Float[Tensor, "n site d"]:
        """The part of values that is at the model's own write sites."""
        assert values is not None, "the source has the dictionary's write sites"
        return values[:, None] if len(self.dictionary.writes) == 1 else values[:, self.numbers]

    def _add_fidelity(
        self, target: Float[Tensor, "n site d"], recon: Float[Tensor, "n site d"], tokens: Int[Tensor, " n"]
    ) -> None:
        self.fidelity.update(target.flatten(1), recon.flatten(1))
        for number, fidelity in enumerate(self.by_site.values()):
            fidelity.update(target[:, number], recon[:, number])
        if self.special is not None:
            is_special = torch.isin(tokens, self.special.to(tokens.device))
            for kind, fidelity in self.by_kind.items():
                here = is_special == kind
                fidelity.update(target[here].flatten(1), recon[here].flatten(1))

    def _patches(self, batch: ActivationBatch, replacement: Float[Tensor, "n site d"]) -> Edits:
        """Edits that put values in the place of the tokens that count."""
        edits = []
        for number, site in enumerate(self.writes):
            donor = batch.activations[site].clone()
            donor[batch.mask] = replacement[:, number].to(donor)
            edits.extend(patch(site.of(""), donor))
        return tuple(edits)
