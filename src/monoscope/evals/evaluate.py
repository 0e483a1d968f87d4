"""Evaluate a dictionary on text: how faithful it is, how its features fire, and what splicing it in costs the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import DataError, MismatchError
from monoscope.core.progress import progress
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.evals.metrics import Fidelity, FidelityResult, Firing, FiringResult, Moments, NextToken
from monoscope.harvest import ActivationSource, SkipPolicy, TokenWindows, live
from monoscope.harvest.live import special_tokens
from monoscope.interventions import patch
from monoscope.models import LanguageModel

SKIP = SkipPolicy()


@dataclass(frozen=True, slots=True)
class LossResult:
    """Next-token losses of the model as it is (clean) and with the write site's activations replaced, in nats.

    spliced: by the reconstruction, the error dropped; zero: by 0; mean: by their mean over the tokens that count
    ce: ``E -log p(next token)``; kl: ``E KL(clean, replaced)``; n_predictions: tokens whose next token is predicted
    ce_recovered: ``(CE_ablated - CE_spliced) / (CE_ablated - CE_clean)``, ablated by zero or mean
    kl_recovered: ``1 - KL(clean, spliced) / KL(clean, ablated)``; both None where ablation costs nothing
    """

    n_predictions: int
    ce_clean: float
    ce_spliced: float
    ce_zero: float
    ce_mean: float
    kl_spliced: float
    kl_zero: float
    kl_mean: float
    ce_recovered_zero: float | None
    ce_recovered_mean: float | None
    kl_recovered_zero: float | None
    kl_recovered_mean: float | None

    @classmethod
    def of(cls, losses: NextToken) -> LossResult:
        """Means over the predictions seen."""
        return cls(
            n_predictions=losses.n,
            ce_clean=losses.ce("clean"),
            ce_spliced=losses.ce("spliced"),
            ce_zero=losses.ce("zero"),
            ce_mean=losses.ce("mean"),
            kl_spliced=losses.kl("spliced"),
            kl_zero=losses.kl("zero"),
            kl_mean=losses.kl("mean"),
            ce_recovered_zero=losses.ce_recovered("spliced", "zero"),
            ce_recovered_mean=losses.ce_recovered("spliced", "mean"),
            kl_recovered_zero=losses.kl_recovered("spliced", "zero"),
            kl_recovered_mean=losses.kl_recovered("spliced", "mean"),
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one dictionary is worth on one text.

    model: name; same_model: whether the dictionary was trained on these very weights, None if it does not say
    dictionary: fingerprint; reads, writes: its sites
    n_windows: windows read; excluded: tokens that did not count, by reason
    special, other: fidelity on the special tokens and on the rest, each about its own mean; None where special tokens
        do not count, as they do in conversations
    """

    model: str
    same_model: bool | None
    dictionary: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    n_windows: int
    excluded: dict[str, int]
    fidelity: FidelityResult
    firing: FiringResult
    losses: LossResult
    special: FidelityResult | None = None
    other: FidelityResult | None = None

    def to_dict(self) -> dict[str, Any]:
        """The whole as JSON values."""
        return asdict(self) | {"reads": list(self.reads), "writes": list(self.writes)}

    def __str__(self) -> str:
        fidelity, firing, losses = self.fidelity, self.firing, self.losses
        sites = " -> ".join(dict.fromkeys((*self.reads, *self.writes)))
        rows = [
            ("fvu", fidelity.fvu, "fraction of variance unexplained"),
            ("cosine", fidelity.cosine, "to the activations"),
            ("shrinkage", fidelity.shrinkage, "|recon| / |x|"),
            ("l0", firing.l0, f"of {firing.n_features:,} features fire on a token"),
            ("dead", firing.dead_share, f"of features never fire in {firing.n_tokens:,} tokens"),
            ("dense", firing.dense_10_share, "of features fire on over 10 % of tokens"),
            ("ce clean", losses.ce_clean, "nats, the model as it is"),
            ("ce spliced", losses.ce_spliced, "with the reconstruction in place"),
            ("ce zero, mean", (losses.ce_zero, losses.ce_mean), "with 0, and with the mean, in place"),
            ("ce recovered", (losses.ce_recovered_zero, losses.ce_recovered_mean), "of what each ablation costs"),
            ("kl recovered", (losses.kl_recovered_zero, losses.kl_recovered_mean), "the same of KL(clean, .)"),
        ]
        if self.special is not None and self.other is not None:
            rows.insert(1, ("fvu by kind", (self.special.fvu, self.other.fvu), "of special tokens, and of all others"))
        head = f"{sites} of {self.model}, {fidelity.n_tokens:,} tokens in {self.n_windows:,} windows"
        return "\n".join([head, *(f"  {name:<14}{_shown(value):<16}{meaning}" for name, value, meaning in rows)])


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_shown(item) for item in value)
    return "-" if value is None else f"{value:.4g}"


def evaluate(
    lm: LanguageModel, dictionary: Dictionary, windows: TokenWindows, *, batch: int = 16, skip: SkipPolicy = SKIP
) -> Evaluation:
    """Fidelity, firing and loss recovered of a dictionary on token windows, which should be held-out text.

    Tokens that ``skip`` leaves out, as training does (padding, special tokens, the first position of each window),
    enter no metric, and there the site keeps its value. Losses are means over the tokens that count and have a next one
    in their window. The mean that replaces activations, and that the legacy ratio needs, is taken over the same tokens
    in a pass of its own. ``batch``: windows at once; their logits are in memory twice.

    Raises MismatchError for a dictionary of other widths than the model's, DataError where no token counts.
    """
    _check_widths(lm, dictionary)
    sites = tuple(dict.fromkeys((*dictionary.reads, *dictionary.writes)))
    source = live(lm, windows, sites, windows_per_batch=batch, skip=skip)
    first = 0
    with torch.no_grad():
        special = None if source.info["skip"]["special"] else special_tokens(lm)
        measured = _Measurement(lm, dictionary, _mean(source, dictionary.writes[0]), special)
        with progress("evaluate", source.n_tokens) as bar:
            for activations in source:
                length = next(iter(activations.activations.values())).shape[1]
                measured.update(activations, windows.mask[first : first + batch, :length])
                bar.advance(activations.n_tokens)
                first += batch
    if measured.losses.n == 0:
        raise DataError(f"no token that counts has a next one: the windows hold {windows.context} tokens")
    trained_on = dictionary.provenance.get("source", {}).get("model", {}).get("fingerprint")
    return Evaluation(
        model=lm.name,
        same_model=None if trained_on is None else trained_on == lm.fingerprint(),
        dictionary=dictionary.fingerprint(),
        reads=tuple(map(str, dictionary.reads)),
        writes=tuple(map(str, dictionary.writes)),
        n_windows=len(windows),
        excluded=source.info["excluded"],
        fidelity=measured.fidelity.result(),
        firing=measured.firing.result(),
        losses=LossResult.of(measured.losses),
        special=_result(measured.by_kind.get(True)),
        other=_result(measured.by_kind.get(False)),
    )


def _result(fidelity: Fidelity | None) -> FidelityResult | None:
    """The metrics; None where there were no two tokens that differ."""
    return None if fidelity is None or fidelity.targets.spread <= 0 else fidelity.result()


def _check_widths(lm: LanguageModel, dictionary: Dictionary) -> None:
    for site, width in dictionary.widths.items():
        if lm.width(site) != width:
            raise MismatchError(f"the dictionary has {width} values at {site}, and {lm.name} has {lm.width(site)}")


def _mean(source: ActivationSource, site: Site) -> Float[Tensor, " d"]:
    """Mean activation at a site over the tokens that count."""
    moments = Moments(source.widths[site])
    with progress("mean activation", source.n_tokens) as bar:
        for batch in source:
            x = batch.flat().activations[site]
            moments.update(x)
            bar.advance(len(x))
    if moments.n == 0:
        raise DataError("no token of these windows counts: the text is empty, or skip leaves out all of it")
    return moments.mean


class _Measurement:
    """The accumulators of one evaluation, fed by batches of windows."""

    def __init__(
        self,
        lm: LanguageModel,
        dictionary: Dictionary,
        mean: Float[Tensor, " d"],
        special: Int[Tensor, " n"] | None,
    ) -> None:
        self.lm, self.dictionary, self.mean, self.special = lm, dictionary, mean, special
        self.by_kind = {} if special is None else {kind: Fidelity(len(mean)) for kind in (True, False)}
        self.fidelity, self.firing = Fidelity(len(mean), mean), Firing(dictionary.decoder_norm())
        self.losses = NextToken()

    def update(self, batch: ActivationBatch, not_padding: Bool[Tensor, "n context"]) -> None:
        """Add one batch of windows."""
        tokens, counts = batch.tokens, batch.mask
        assert tokens is not None, "a live source gives tokens"
        assert counts is not None, "a live source says which tokens count"
        x, target = self.dictionary.gather(batch)
        step = self.dictionary(x, target, counts)
        self.fidelity.update(step.target, step.recon)
        self.firing.update(step.acts)
        if self.special is not None:
            is_special = torch.isin(tokens, self.special.to(tokens.device))[counts]
            for kind, fidelity in self.by_kind.items():
                fidelity.update(step.target[is_special == kind], step.recon[is_special == kind])

        mask = None if bool(not_padding.all()) else not_padding.to(x.device)
        predicts = counts[:, :-1] & not_padding[:, 1:].to(x.device)
        wanted = tokens[:, 1:][predicts]
        clean = self.lm.logits(tokens, mask)[:, :-1][predicts]
        self.losses.update(wanted, clean)
        replacements = {"spliced": step.recon, "zero": torch.zeros_like(step.recon), "mean": self.mean.to(step.recon)}
        for name, replacement in replacements.items():
            donor = target.clone()
            donor[counts] = replacement
            with self.lm.edit(patch(self.dictionary.writes[0], donor)):
                changed = self.lm.logits(tokens, mask)[:, :-1][predicts]
            self.losses.update_changed(name, wanted, clean, changed)
