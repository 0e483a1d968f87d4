"""Dictionaries in the forward pass: their reconstructions in the place of what they reconstruct."""

from __future__ import annotations

import torch
from torch import Tensor

from monoscope.core.errors import ConfigError, MismatchError, nearest
from monoscope.dictionaries import Dictionary
from monoscope.interventions.edits import Edits, reading, skipped

ERRORS = ("keep", "drop", "leaf")


def splice(*dictionaries: Dictionary, error: str = "keep", skip_first: int = 1) -> Edits:
    """Puts dictionaries into the forward pass. With ``recon`` a reconstruction and ``error = x - recon``, x becomes

        keep    recon + error            the model as it was: logits are the same to rounding
        drop    recon                    what is lost is the dictionary's error
        leaf    recon + detach(error)    the model as it was, with gradients through features alone

    ``skip_first``: at positions below it x stays as it is, all error (with "leaf", without gradient); see
    ``interventions.edits``. Raises ConfigError for an unknown ``error``, MismatchError if two dictionaries write to one
    site.
    """
    if error not in ERRORS:
        raise ConfigError(f"error is one of {', '.join(ERRORS)}, found {error!r}; {nearest(error, ERRORS)}")
    written = [site for dictionary in dictionaries for site in dictionary.writes]
    if twice := [site for site in written if written.count(site) > 1]:
        raise MismatchError(f"{written.count(twice[0])} dictionaries write at {twice[0]}; splice one per site")
    return tuple(edit for dictionary in dictionaries for edit in _splice(dictionary, error, skip_first))


def _splice(dictionary: Dictionary, error: str, skip_first: int) -> Edits:
    def rewrite(x: Tensor, target: Tensor) -> Tensor:
        recon = dictionary.decode(dictionary.encode(x), x)
        if error == "keep":
            recon = recon + (target - recon)
        elif error == "leaf":
            recon = recon + (target - recon).detach()
        first = skipped(target, skip_first)
        if first is None:
            return recon
        return torch.where(first, target.detach() if error == "leaf" else target, recon)

    return reading(dictionary, rewrite)
