"""What an evaluation finds, as data and as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from monoscope.evals.metrics import FidelityResult, FiringResult, NextToken


@dataclass(frozen=True, slots=True)
class LossResult:
    """Next-token losses of the model as it is (clean) and with the write sites' activations replaced, in nats.

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
    label: of the model, where the dictionary writes in several; what is measured is of its sites
    n_windows: windows read; excluded: tokens that did not count, by reason
    special, other: fidelity on the special tokens and on the rest, each about its own mean; None where special tokens
        do not count, as they do in conversations
    by_site: fidelity at each of several write sites; ``fidelity`` is of all of them as one vector
    rereads: whether, spliced in at several sites, the dictionary read later ones as the earlier left them; else all
        reconstructions are of the model as it is
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
    label: str = ""
    by_site: dict[str, FidelityResult] | None = None
    rereads: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The whole as JSON values."""
        return asdict(self) | {"reads": list(self.reads), "writes": list(self.writes)}

    def __str__(self) -> str:
        fidelity, firing, losses = self.fidelity, self.firing, self.losses
        sites = " -> ".join(dict.fromkeys((", ".join(self.reads), ", ".join(self.writes))))
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
        if self.by_site is not None:
            shares = tuple(found.fvu for found in self.by_site.values())
            rows.insert(1, ("fvu by site", shares, f"at {', '.join(self.by_site)}"))
        head = f"{sites} of {self.model}, {fidelity.n_tokens:,} tokens in {self.n_windows:,} windows"
        return "\n".join([head, *(f"  {name:<14}{_shown(value):<15} {meaning}" for name, value, meaning in rows)])


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_shown(item) for item in value)
    return "-" if value is None else f"{value:.4g}"
