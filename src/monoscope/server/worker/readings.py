"""What a model read of the last few texts, kept for the next feature that is tried on them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from jaxtyping import Float, Int
from torch import Tensor

from monoscope.core.site import Site
from monoscope.models import LanguageModel

KEPT_TEXTS, KEPT_BYTES = 8, 2**28


class Readings:
    """Activations of one model by text and site."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._kept: OrderedDict[tuple[int, ...], dict[Site, Tensor]] = OrderedDict()

    def read(self, tokens: Int[Tensor, " pos"], sites: Sequence[Site]) -> Mapping[Site, Float[Tensor, "_ pos d"]]:
        """Activations of one text at sites, in one pass; those read before are not read again."""
        known = self._kept.setdefault(tuple(tokens.tolist()), {})
        self._kept.move_to_end(tuple(tokens.tolist()))
        missing = {site: self._lm.resolve(site) for site in sites if site not in known}
        if missing:
            seen = self._lm.read(tokens[None], list(missing.values()))
            known |= {site: seen[at] for site, at in missing.items()}
            self._make_room()
        return known

    def _make_room(self) -> None:
        def total() -> int:
            return sum(x.numel() * x.element_size() for kept in self._kept.values() for x in kept.values())

        while len(self._kept) > 1 and (len(self._kept) > KEPT_TEXTS or total() > KEPT_BYTES):
            self._kept.popitem(last=False)
