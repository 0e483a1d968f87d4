"""Edits that change what a dictionary's features contribute, and nothing else: steer, ablate, clamp; and patch.

A feature contributes ``acts[f] * W_dec[f]`` to its dictionary's write site. Each edit adds the change of that
contribution to the site's value,

    x  ->  x + (acts_new[f] - acts[f]) * W_dec[f]

or of whatever the feature contributes to its reconstruction, such as a map of what is read in a MOLT,

so the dictionary's error is kept: an edit that changes no activation changes nothing. Activations are computed where
the dictionary reads, at the time of the pass; each edit sees what the edits before it left.

Every function here returns a tuple for ``LanguageModel.edit``: ``with lm.edit(splice(sae), steer(sae, 3, 8.0)): ...``

``skip_first``: tokens at positions below it are left as they are. Dictionaries are trained without the first position,
whose activations are unlike all others, and what they make of it is arbitrary; hence the default of 1. Positions count
from the first token that is not padding, and are exact under cached generation. Set 0 for dictionaries that were
trained on every position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.errors import MismatchError, UserError
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.models import Edit, current_positions

Features = int | Sequence[int] | Int[Tensor, " n"]
Edits = tuple[Edit, ...]


def steer(dictionary: Dictionary, feature: int, strength: float, *, skip_first: int = 1) -> Edits:
    """Moves activations along a feature: ``x + strength * W_dec[f] / |W_dec[f]|``.

    ``strength`` is a distance in the units of the write site; a feature that is active at ``a`` contributes a distance
    ``a * dictionary.decoder_norm()[f]``. Raises UserError for a feature the dictionary does not have.
    """
    chosen = _indices(dictionary, feature)
    step = strength * torch.nn.functional.normalize(_rows(dictionary, chosen)[0], dim=0)
    return (Edit(dictionary.writes[0], _where_trained(lambda x: x + step.to(x), skip_first)),)


def ablate(dictionary: Dictionary, features: Features, *, skip_first: int = 1) -> Edits:
    """Takes features' contributions away: ``x - sum_f acts[f] * W_dec[f]``, as if they had not fired.

    Raises UserError for a feature the dictionary does not have.
    """
    return _change(dictionary, _indices(dictionary, features), torch.neg, skip_first)


def clamp(dictionary: Dictionary, feature: int, value: float, *, skip_first: int = 1) -> Edits:
    """Holds a feature at an activation, wherever it was: ``x + (value - acts[f]) * W_dec[f]``.

    ``value`` is an activation as ``dictionary.encode`` gives it. Raises UserError for a feature the dictionary does not
    have.
    """
    return _change(dictionary, _indices(dictionary, feature), lambda acts: value - acts, skip_first)


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

    return (Edit.at(site, _where_trained(replace, skip_first)),)


def reading(dictionary: Dictionary, rewrite: Callable[[Tensor, Tensor], Tensor]) -> Edits:
    """Edits that put ``rewrite(x, target)`` at the write site, ``x`` being what the dictionary reads in the same pass.

    Both come in the dictionary's dtype. One edit where it reads and writes at the same site, else two. Raises
    MismatchError, in the pass, if the model comes to the write site first, or if a dictionary that reads sequences is
    given less than whole ones.
    """
    (read,), (write,) = dictionary.reads, dictionary.writes
    dtype = next(dictionary.parameters()).dtype

    def given(x: Tensor) -> Tensor:
        if not dictionary.per_token:
            _check_whole()
        return x.to(dtype)

    if read == write:
        return (Edit(write, lambda x: rewrite(x.to(dtype), x.to(dtype))),)
    noted: list[Tensor] = []

    def note(x: Tensor) -> None:
        noted[:] = [given(x)]

    def change(target: Tensor) -> Tensor:
        if not noted:
            raise MismatchError(
                f"the model comes to {write}, where the dictionary writes, before {read}, where it reads"
            )
        return rewrite(noted.pop(), target.to(dtype))

    return Edit(read, note), Edit(write, change)


def skipped(x: Float[Tensor, "batch pos d"], skip_first: int) -> Bool[Tensor, "batch pos 1"] | None:
    """Which tokens stand at positions below ``skip_first``; None if it is 0, or the pass is not over text."""
    positions = current_positions()
    if positions is None or skip_first == 0:
        return None
    return (positions < skip_first).to(x.device)[..., None]


def _check_whole() -> None:
    """Raises MismatchError where the pass under way holds only the end of its rows, or padding in front of them."""
    positions = current_positions()
    if positions is not None and (positions[:, 0].any() or not positions[:, 1:2].all()):
        raise MismatchError(
            "this dictionary attends to earlier tokens, and this pass holds the last ones alone, or padding in front; "
            "run whole rows, without cached generation, padded behind if at all"
        )


def _change(
    dictionary: Dictionary, features: Int[Tensor, " n"], change: Callable[[Tensor], Tensor], skip_first: int
) -> Edits:
    def rewrite(x: Tensor, target: Tensor) -> Tensor:
        acts = dictionary.encode(x).where(features.to(x.device))
        changes = Acts(change(acts), len(features))
        changed = target + dictionary.decode_of(changes, x, features.to(x.device))
        return _kept(changed, target, skip_first)

    return reading(dictionary, rewrite)


def _where_trained(fn: Callable[[Tensor], Tensor], skip_first: int) -> Callable[[Tensor], Tensor]:
    return lambda x: _kept(fn(x), x, skip_first)


def _kept(changed: Tensor, x: Tensor, skip_first: int) -> Tensor:
    first = skipped(x, skip_first)
    return changed if first is None else torch.where(first, x, changed)


def _rows(dictionary: Dictionary, features: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    named = dict(dictionary.named_parameters())
    if "W_dec" not in named:
        raise MismatchError(f"features of a {type(dictionary).__name__} are maps, and have no direction to steer along")
    return named["W_dec"][features]


def _indices(dictionary: Dictionary, features: Features) -> Int[Tensor, " n"]:
    indices = torch.as_tensor(features).reshape(-1)
    for feature in indices.tolist():
        if not 0 <= feature < dictionary.n_features:
            raise UserError(f"no feature {feature}: the dictionary has features 0 to {dictionary.n_features - 1}")
    return indices
