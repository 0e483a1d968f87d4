"""Dictionaries in the forward pass: their reconstructions in the place of what they reconstruct."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from monoscope.core.errors import ConfigError, MismatchError, nearest
from monoscope.dictionaries import Dictionary
from monoscope.interventions.edits import Edits, skipped
from monoscope.interventions.passage import Given, Seen, passing

ERRORS = ("keep", "drop", "leaf")


def splice(
    *dictionaries: Dictionary,
    error: str = "keep",
    skip_first: int = 1,
    where: Bool[Tensor, "batch pos"] | None = None,
    given: Given | None = None,
    model: str = "",
) -> Edits:
    """Puts dictionaries into the forward pass. With ``recon`` a reconstruction and ``error = x - recon``, x becomes

        keep    recon + error            the model as it was: logits are the same to rounding
        drop    recon                    what is lost is the dictionary's error
        leaf    recon + detach(error)    the model as it was, with gradients through features alone

    A dictionary of several layers that reads them apart sees, at each, what it made of the ones before.

    ``skip_first``: at positions below it x stays as it is, all error (with "leaf", without gradient); see
    ``interventions.edits``, also for ``given`` and ``model``. ``where``: the tokens to reconstruct; others stay as they
    are. Raises ConfigError for an unknown ``error``, MismatchError if two dictionaries write to one site, UserError
    where features cannot be read in one pass.
    """
    if error not in ERRORS:
        raise ConfigError(f"error is one of {', '.join(ERRORS)}, found {error!r}; {nearest(error, ERRORS)}")
    written = [site for dictionary in dictionaries for site in dictionary.writes]
    if twice := [site for site in written if written.count(site) > 1]:
        raise MismatchError(f"{written.count(twice[0])} dictionaries write at {twice[0]}; splice one per site")

    def rewrite(seen: Seen, target: Tensor) -> Tensor:
        recon = seen.recon
        if error == "keep":
            recon = recon + (target - recon)
        elif error == "leaf":
            recon = recon + (target - recon).detach()
        stays = skipped(target, skip_first)
        if where is not None:
            stays = ~where[..., None] if stays is None else stays | ~where[..., None]
        if stays is None:
            return recon
        return torch.where(stays, target.detach() if error == "leaf" else target, recon)

    spliced = [passing(dictionary, rewrite, given=given, model=model) for dictionary in dictionaries]
    return tuple(edit for edits in spliced for edit in edits)
