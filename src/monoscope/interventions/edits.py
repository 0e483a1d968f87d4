"""Edits that change what a dictionary's features contribute, and nothing else: steer, ablate, clamp; and patch.

A feature contributes ``acts[f] * W_dec[f]`` to its dictionary's write site, or to each of them. Each edit adds the
change of that contribution to the site's value,

    x  ->  x + (acts_new[f] - acts[f]) * W_dec[f]

or of whatever the feature contributes to its reconstruction, such as a map of what is read in a MOLT,

so the dictionary's error is kept: an edit that changes no activation changes nothing. Activations are computed where
the dictionary reads, at the time of the pass; each edit sees what the edits before it left. Features that read what the
model comes to only later, or another model, need ``given``: what they read in another pass. Write sites then start from
their values there.

Every function here returns a tuple for ``LanguageModel.edit``: ``with lm.edit(splice(sae), steer(sae, 3, 8.0)): ...``

``skip_first``: tokens at positions below it are left as they are. Dictionaries are trained without the first position,
whose activations are unlike all others, and what they make of it is arbitrary; hence the default of 1. Positions count
from the first token that is not padding, and are exact under cached generation. Set 0 for dictionaries that were
trained on every position.

``model``: the label of the model that is edited, for dictionaries that write in several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monoscope.core.errors import MismatchError, UserError
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.interventions.passage import Given, Seen, passing, writes_of
from monoscope.models import Edit, current_positions

Features = int | Sequence[int] | Int[Tensor, " n"]
Edits = tuple[Edit, ...]


def steer(
    dictionary: Dictionary,
    feature: int,
    strength: float,
    *,
    at: Site | str | None = None,
    skip_first: int = 1,
    model: str = "",
) -> Edits:
    """Moves activations along a feature: ``x + strength * W_dec[f] / |W_dec[f]|``.

    ``strength`` is a distance in the units of the write site; a feature that is active at ``a`` contributes a distance
    ``a * |W_dec[f]|``. Of several write sites all are moved, and the norm is over all of them, or the one named ``at``:
    between layers of one residual stream what is added early is carried on. Raises UserError for a feature the
    dictionary does not have, or whose direction depends on what it reads.
    """
    chosen = indices_of(dictionary, feature)
    writes = writes_of(dictionary, model)[1] if at is None else [_written(dictionary, Site.parse(at))]
    rows = [dictionary.decoder_rows(site, chosen) for site in writes]
    directions = [row[0] for row in rows if row is not None]
    if len(directions) < len(rows):
        raise MismatchError(f"features of a {type(dictionary).__name__} are maps, and have no direction to steer along")
    scale = strength / torch.cat(directions).norm().clamp_min(1e-12)
    return tuple(
        Edit(site.of(""), where_trained(lambda x, step=scale * direction: x + step.to(x), skip_first))
        for site, direction in zip(writes, directions, strict=True)
    )


def ablate(
    dictionary: Dictionary, features: Features, *, skip_first: int = 1, given: Given | None = None, model: str = ""
) -> Edits:
    """Takes features' contributions away: ``x - sum_f acts[f] * W_dec[f]``, as if they had not fired.

    Raises UserError for a feature the dictionary does not have, or that cannot be read in one pass.
    """
    return _change(dictionary, indices_of(dictionary, features), torch.neg, skip_first, given, model)


def clamp(
    dictionary: Dictionary,
    feature: int,
    value: float,
    *,
    skip_first: int = 1,
    given: Given | None = None,
    model: str = "",
) -> Edits:
    """Holds a feature at an activation, wherever it was: ``x + (value - acts[f]) * W_dec[f]``.

    ``value`` is an activation as ``dictionary.encode`` gives it. Raises UserError for a feature the dictionary does not
    have, or that cannot be read in one pass.
    """
    return _change(dictionary, indices_of(dictionary, feature), lambda acts: value - acts, skip_first, given, model)


def patch(site: Site | str, donor: Float[Tensor, "*shape"], *, skip_first: int = 0) -> Edits:
    """Puts other activations in a site's place: ``x = donor``, in whole, which broadcasts to ``[batch, pos, d]``.

    Raises MismatchError, in the pass, for a donor that does not fit the tokens.
    """

    def replace(x: Tensor) -> Tensor:
        try:
            return donor.to(x).expand_as(x).clone()  # some models write into what a module returns
        except RuntimeError:
            raise MismatchError(
                f"a donor of {list(donor.shape)} does not fit {site}, which is {list(x.shape)}"
            ) from None

    return (Edit.at(site, where_trained(replace, skip_first)),)


def skipped(x: Float[Tensor, "batch pos d"], skip_first: int) -> Bool[Tensor, "batch pos 1"] | None:
    """Which tokens stand at positions below ``skip_first``; None if it is 0, or the pass is not over text."""
    positions = current_positions()
    if positions is None or skip_first == 0:
        return None
    return (positions < skip_first).to(x.device)[..., None]


def _change(
    dictionary: Dictionary,
    features: Int[Tensor, " n"],
    change: Callable[[Tensor], Tensor],
    skip_first: int,
    given: Given | None,
    model: str,
) -> Edits:
    def rewrite(seen: Seen, target: Tensor) -> Tensor:
        return kept(target + seen.contribution(change(seen.of(features)), features), target, skip_first)

    return passing(dictionary, rewrite, given=given, model=model)


def where_trained(fn: Callable[[Tensor], Tensor], skip_first: int) -> Callable[[Tensor], Tensor]:
    """The same change, but for tokens at positions below ``skip_first``."""
    return lambda x: kept(fn(x), x, skip_first)


def kept(changed: Tensor, x: Tensor, skip_first: int) -> Tensor:
    """``changed``, but x at positions below ``skip_first``."""
    first = skipped(x, skip_first)
    return changed if first is None else torch.where(first, x, changed)


def _written(dictionary: Dictionary, site: Site) -> Site:
    if site not in dictionary.writes:
        raise UserError(f"the dictionary writes at {', '.join(map(str, dictionary.writes))}, not at {site}")
    return site


def indices_of(dictionary: Dictionary, features: Features) -> Int[Tensor, " n"]:
    """Features as indices. Raises UserError for one the dictionary does not have."""
    indices = torch.as_tensor(features).reshape(-1)
    for feature in indices.tolist():
        if not 0 <= feature < dictionary.n_features:
            raise UserError(f"no feature {feature}: the dictionary has features 0 to {dictionary.n_features - 1}")
    return indices
