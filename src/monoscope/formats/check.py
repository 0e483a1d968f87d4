"""Whether a dictionary fits activations: a wrong guess about a file shows in its fraction of variance unexplained.

    fvu = sum ||target - recon||^2 / sum ||target - mean(target)||^2        l0 = mean number of features that fire

What its makers published is what to expect; without that, an FVU above 1 is worse than no dictionary at all. A rule
that a file leaves open is settled the same way: of the dictionaries it may stand for, the one that fits is meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import DataError
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.harvest import ActivationSource

TOKENS = 4096
ABSURD, POOR = 1.0, 0.6  # of FVU: worse than the mean; worse than any that people publish
FAR = 2.0  # how many times an L0 may differ from the published one, which was taken on other text
DENSE = 0.25  # share of features that fire on a token in no sparse dictionary
TOKENS_PER_BATCH = 1024

Activations = ActivationSource | Mapping[Site, Tensor] | Sequence[ActivationBatch]


@dataclass(frozen=True, slots=True)
class Check:
    """How a dictionary fits activations, and what is suspicious about it, in words.

    dead_share: share of features that fired on none of the tokens, which may be few
    published: what its makers say, by name
    """

    where: str
    n_tokens: int
    fvu: float
    l0: float
    dead_share: float
    published: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The numbers as a table."""
        table = {"at": self.where, "tokens": self.n_tokens, "fvu": self.fvu, "l0": self.l0}
        table["dead_share"] = self.dead_share
        return table | {f"published_{name}": value for name, value in self.published.items()}


@torch.no_grad()
def check(dictionary: Dictionary, activations: Activations, tokens: int = TOKENS) -> Check:
    """FVU, L0 and dead share on activations, against what was published.

    activations: a source, of which ``tokens`` are read from where it stands; or values by site, ``[n, d]``
    Raises DataError where they are too few, or all the same.
    """
    total: Tensor | None = None
    error, squares, n, fired = 0.0, 0.0, 0, 0
    alive = torch.zeros(dictionary.n_features, dtype=torch.bool)
    for batch in sample(activations, tokens):
        step = dictionary(*dictionary.gather(batch), batch.mask)
        assert step.target is not None, "gather gives a target"
        target, recon = step.target.double(), step.recon.double()
        sites = len(dictionary.writes)
        flat = target.reshape(-1, target.shape[-1] * (1 if sites == 1 else sites))
        error += (target - recon).square().sum().item()
        squares += flat.square().sum().item()
        total = flat.sum(0) if total is None else total + flat.sum(0)
        acts = step.acts.dense().reshape(len(flat), -1, dictionary.n_features) != 0
        fired += int(acts.any(1).sum())
        alive |= acts.any(1).any(0).cpu()
        n += len(flat)
    if total is None or n < 2:
        raise DataError("a check needs at least two tokens of activations")
    spread = squares - (total.square().sum() / n).item()
    if spread <= 1e-12 * squares:
        raise DataError(f"the {n:,} tokens of activations are all the same: there is nothing to explain")
    found = Check(_where(dictionary), n, error / spread, fired / n, 1 - alive.float().mean().item())
    return verdict(dictionary, found)


def verdict(dictionary: Dictionary, found: Check) -> Check:
    """Numbers measured anywhere, with what was published, and what is suspicious in words."""
    published = published_of(dictionary)
    warnings = tuple(_suspicions(found, published, dictionary))
    return Check(found.where, found.n_tokens, found.fvu, found.l0, found.dead_share, published, warnings)


def published_of(dictionary: Dictionary) -> dict[str, float]:
    """What the makers of a foreign dictionary say about it, by name."""
    opened = dictionary.provenance.get("opened", {})
    return {str(name): float(value) for name, value in opened.get("published", {}).items()}


def is_foreign(dictionary: Dictionary) -> bool:
    """Whether a dictionary was opened from another library's files."""
    return "opened" in dictionary.provenance


def _suspicions(found: Check, published: Mapping[str, float], dictionary: Dictionary) -> Iterator[str]:
    where, fvu, l0 = found.where, found.fvu, found.l0
    known = published.get("fvu")
    if not fvu <= ABSURD:
        yield f"FVU {fvu:.2g} at {where}: worse than none; these look like activations of another site, or other rules"
    elif known is not None and fvu > max(2 * known, known + 0.1):
        yield f"FVU {fvu:.2g} at {where}, and {known:.2g} was published: another model, site or text, or other rules"
    elif known is None and fvu > POOR:
        yield f"FVU {fvu:.2g} at {where}: most is left unexplained, which is little for a finished dictionary"
    wanted = published.get("l0")
    if l0 == 0:
        yield f"no feature fires at {where}: thresholds in other units, or activations of another site"
    elif wanted and not 1 / FAR <= l0 / wanted <= FAR:
        yield (
            f"{l0:.3g} features fire on a token at {where}, and {wanted:.3g} were published: thresholds in other "
            "units, or activations of another site"
        )
    elif l0 > DENSE * dictionary.n_features:
        yield f"{l0 / dictionary.n_features:.0%} of all features fire on a token at {where}, which is not sparse"


def elsewhere(dictionary: Dictionary, activations: Activations, sites: Sequence[Site]) -> dict[Site, float]:
    """FVU of a dictionary of one site on the activations of others, of the same width."""
    batches, own, found = sample(activations), dictionary.reads[0], {}
    for site in sites:
        moved = [replace(batch, activations={own: batch.activations[site]}) for batch in batches]
        found[site] = check(dictionary, moved).fvu
    return found


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of several dictionaries fits, and the FVU of each, in words for the record."""

    name: str
    fvu: Mapping[str, float]

    @property
    def words(self) -> str:
        """Why it was chosen."""
        others = ", ".join(f"{value:.3g} with {name}" for name, value in self.fvu.items() if name != self.name)
        return f"{self.name}: FVU {self.fvu[self.name]:.3g} on activations, {others}"


def choose(candidates: Mapping[str, Dictionary], activations: Activations, tokens: int = TOKENS) -> Choice:
    """The candidate with the lowest FVU on activations: the rule that a file left open."""
    batches = sample(activations, tokens)
    return best({name: check(dictionary, batches).fvu for name, dictionary in candidates.items()})


def best(fvu: Mapping[str, float]) -> Choice:
    """The choice with the lowest FVU; one that is not a number is never it."""
    return Choice(min(fvu, key=lambda name: fvu[name] if fvu[name] == fvu[name] else float("inf")), dict(fvu))


def sample(activations: Activations, tokens: int = TOKENS) -> list[ActivationBatch]:
    """Batches of about so many tokens that count. A source is afterwards where it was before."""
    if isinstance(activations, ActivationSource):
        position, batches, n = activations.state_dict(), [], 0
        for batch in activations:
            batches.append(batch)
            n += batch.n_tokens
            if n >= tokens:
                break
        activations.load_state_dict(position)
        return batches
    if isinstance(activations, Mapping):
        first = next(iter(activations.values()))
        if first.ndim > 2:
            return [ActivationBatch(activations)]
        starts = range(0, len(first), TOKENS_PER_BATCH)
        return [ActivationBatch({s: x[a : a + TOKENS_PER_BATCH] for s, x in activations.items()}) for a in starts]
    return list(activations)


def _where(dictionary: Dictionary) -> str:
    def named(sites: tuple[Site, ...]) -> str:
        return ", ".join(map(str, sites)) if len(sites) <= 3 else f"{sites[0]} ... {sites[-1]}"

    if dictionary.reads == dictionary.writes:
        return named(dictionary.reads)
    return f"{named(dictionary.reads)} -> {named(dictionary.writes)}"


@torch.no_grad()
def random_inputs(dictionary: Dictionary, n: int, seed: int = 0) -> dict[Site, Float[Tensor, "*batch d"]]:
    """Activations for want of real ones: sums of a few of the directions that features read, and Gaussian noise.

    Features fire on them, which is all they are good for: no number of fidelity means anything on them.
    """
    generator = torch.Generator().manual_seed(seed)
    dtype = next(dictionary.parameters()).dtype
    shape = (n,) if dictionary.per_token else (max(1, n // 16), 16)
    values = {
        site: torch.randn(*shape, width, generator=generator).to(dtype) for site, width in dictionary.widths.items()
    }
    rows = dictionary.encoder_rows()
    if rows is None:
        rows = dictionary.decoder_rows(dictionary.reads[0]) if dictionary.reads == dictionary.writes else None
    if rows is not None and len(dictionary.reads) == 1:
        site, half = dictionary.reads[0], shape[0] // 2
        chosen = torch.randint(len(rows), (half, *shape[1:], 8), generator=generator)
        weights = torch.randn(half, *shape[1:], 8, generator=generator).to(dtype).abs() * 4
        units = rows.detach() / rows.detach().norm(dim=1, keepdim=True).clamp_min(1e-12)
        values[site][:half] += torch.einsum("...k,...kd->...d", weights, units[chosen])
    for scale in (1.0, 10.0, 100.0, 1e3, 1e4):  # thresholds are in the units of the site, which nobody states
        larger = {site: x * scale for site, x in values.items()}
        batch = ActivationBatch({site: x[:16] for site, x in larger.items()})
        if dictionary.encode(dictionary.gather(batch)[0]).l0().float().mean() >= 1:
            return larger
    return values
