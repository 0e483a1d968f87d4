"""A dictionary in the forward pass: what it has read by the time the model comes to a site where it writes.

Dictionaries that read one site, or the sites of all layers apart, are computed as the pass goes on, so that what is
written early is read later. A crosscoder's features read layers that the model comes to only after it wrote to earlier
ones, or other models; what it reads is then taken from another pass, ``given``, and every site is rewritten from the
value it had there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.errors import MismatchError, UserError
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.dictionaries.base import stacked
from monoscope.dictionaries.order import comes_before
from monoscope.models import Edit, current_positions

Given = Mapping[Site, Float[Tensor, "batch pos d"]]


@dataclass(frozen=True, slots=True)
class Seen:
    """A dictionary where the model comes to one of its write sites, number ``number``.

    acts: of all features, or of the first ones whose sites have been read, on which alone the site depends
    x: what was read, 0 where it was not yet
    """

    dictionary: Dictionary
    number: int
    acts: Acts
    x: Float[Tensor, "batch pos *site d"]

    @property
    def recon(self) -> Float[Tensor, "batch pos d_out"]:
        """Reconstruction of the site."""
        return self._here(self.dictionary.decode(self.acts, self.x))

    def of(self, features: Int[Tensor, " n"]) -> Float[Tensor, "batch pos *gate n"]:
        """Activations of chosen features, 0 for those whose site was not read yet."""
        known = features < self.acts.n_features
        acts = self.acts.where(features.where(known, 0).to(self.x.device))
        return acts * known.to(acts)

    def contribution(
        self, acts: Float[Tensor, "batch pos *gate n"], features: Int[Tensor, " n"]
    ) -> Float[Tensor, "batch pos d_out"]:
        """What chosen features write at the site with other activations."""
        features = features.to(self.x.device)
        return self._here(self.dictionary.decode_of(Acts(acts, len(features)), self.x, features))

    def _here(self, written: Tensor) -> Tensor:
        return written if len(self.dictionary.writes) == 1 else written[..., self.number, :]


Rewrite = Callable[[Seen, Tensor], Tensor]


def writes_of(dictionary: Dictionary, model: str = "") -> tuple[str, list[Site]]:
    """Label of the model that is edited, and the sites where the dictionary writes in it.

    Where all sites are of one model, its label may be left out. Raises UserError for a label it does not write to.
    """
    labels = list(dict.fromkeys(site.model for site in dictionary.writes))
    if len(labels) == 1 and not model:
        model = labels[0]
    if model not in labels:
        named = ", ".join(repr(label) for label in labels)
        raise UserError(f"the dictionary writes in the models {named}; name the one that is edited, as in model = ...")
    return model, [site for site in dictionary.writes if site.model == model]


def passing(
    dictionary: Dictionary, rewrite: Rewrite, *, given: Given | None = None, model: str = ""
) -> tuple[Edit, ...]:
    """Edits that put ``rewrite(seen, target)`` at every write site, both in the dictionary's dtype.

    Raises UserError where features read what the pass does not give in time; MismatchError, in the pass, if the model
    comes to a write site first, or if a dictionary that reads sequences is given less than whole ones.
    """
    model, writes = writes_of(dictionary, model)
    dtype = next(dictionary.parameters()).dtype
    if given is not None:
        return _from_given(dictionary, rewrite, given, writes, dtype)
    _check_causal(dictionary, model)
    if dictionary.reads == dictionary.writes and len(writes) == 1:
        return (Edit(writes[0].of(""), lambda x: rewrite(_seen(dictionary, 0, [x.to(dtype)]), x.to(dtype))),)
    apart = dictionary.reads_apart and len(dictionary.reads) > 1
    noted: dict[int, tuple[Tensor, Acts | None]] = {}

    def note(number: int, x: Tensor) -> None:
        x = x.to(dtype)
        noted[number] = x, dictionary.encode_read(number, x) if apart else None

    def change(number: int, target: Tensor) -> Tensor:
        needed = range(number + 1 if apart else len(dictionary.reads))
        if missing := [dictionary.reads[n] for n in needed if n not in noted]:
            raise MismatchError(
                f"the model comes to {dictionary.writes[number]}, where the dictionary writes, before {missing[0]}, "
                "where it reads"
            )
        seen = _seen(dictionary, number, *zip(*(noted[n] for n in needed), strict=True))
        if number == len(dictionary.writes) - 1:
            noted.clear()
        return rewrite(seen, target.to(dtype))

    notes = [Edit(site.of(""), lambda x, n=n: note(n, x)) for n, site in enumerate(dictionary.reads)]
    changes = [Edit(site.of(""), lambda x, n=n: change(n, x)) for n, site in enumerate(dictionary.writes)]
    return (*notes, *changes)


def _seen(dictionary: Dictionary, number: int, read: Sequence[Tensor], acts: Sequence[Acts | None] = (None,)) -> Seen:
    """The dictionary at a write site, once it has read its first sites, and perhaps encoded them."""
    if not dictionary.per_token:
        _check_whole()
    later = [torch.zeros_like(read[0])] * (len(dictionary.reads) - len(read))
    x = stacked(dict(zip(dictionary.reads, (*read, *later), strict=True)), dictionary.reads)
    known = [part for part in acts if part is not None]
    return Seen(dictionary, number, Acts.joined(known) if known else dictionary.encode(x), x)


def _check_whole() -> None:
    """Raises MismatchError where the pass under way holds only the end of its rows, or padding in front of them."""
    positions = current_positions()
    if positions is not None and (positions[:, 0].any() or not positions[:, 1:2].all()):
        raise MismatchError(
            "this dictionary attends to earlier tokens, and this pass holds the last ones alone, or padding in front; "
            "run whole rows, without cached generation, padded behind if at all"
        )


def _from_given(
    dictionary: Dictionary, rewrite: Rewrite, given: Given, writes: Sequence[Site], dtype: torch.dtype
) -> tuple[Edit, ...]:
    if missing := [site for site in dictionary.reads if site not in given]:
        raise MismatchError(f"features read {missing[0]}, and what is given is of {', '.join(map(str, given))}")
    x = stacked({site: given[site].to(dtype) for site in dictionary.reads}, dictionary.reads)
    acts = dictionary.encode(x)

    def change(site: Site, target: Tensor) -> Tensor:
        base = given.get(site, target)
        if base.shape != target.shape:
            raise MismatchError(f"what is given at {site} is {list(base.shape)}, and the pass has {list(target.shape)}")
        return rewrite(Seen(dictionary, dictionary.writes.index(site), acts, x), base.to(target.device, dtype))

    return tuple(Edit(site.of(""), lambda target, site=site: change(site, target)) for site in writes)


def _check_causal(dictionary: Dictionary, model: str) -> None:
    advice = "pass what is read in another pass, as in given = {site: activations}"
    if foreign := [site for site in dictionary.reads if site.model != model]:
        raise UserError(f"features also read {foreign[0]}, which is not in this model; {advice}")
    if dictionary.reads_apart:
        return
    for write in dictionary.writes:
        for read in dictionary.reads:
            if len(dictionary.writes) > 1 and comes_before(write, read):
                raise UserError(
                    f"features that write at {write} also read {read}, to which the model comes later; {advice}"
                )
