"""Sources that tests of stores harvest: a tiny model that reads, and any source that breaks on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tiny_text_model import TEXT, tiny_lm, tiny_tokenizer

from monoscope.harvest import ActivationSource, TokenWindows, live

SITES = ("0.resid_post", "1.mlp_out")


def source(seed: int = 0, **options: Any) -> ActivationSource:
    """Two sites of a tiny model, two windows of 16 tokens at a time."""
    windows = TokenWindows.from_text(TEXT * 2, tiny_tokenizer(), context=16)
    return live(tiny_lm(seed), windows, SITES, windows_per_batch=2, **options)


class Interrupted(Exception):
    """What a fragile source breaks with."""


class Fragile(ActivationSource):
    """A source that breaks after some batches, as its parts do; ``left`` says how many it would still give."""

    def __init__(self, inner: ActivationSource, batches: int = 1000) -> None:
        self.inner, self.left = inner, batches
        self.sites, self.widths, self.n_tokens = inner.sites, inner.widths, inner.n_tokens

    @property
    def info(self) -> dict[str, Any]:
        """Provenance of the source."""
        return self.inner.info

    def __iter__(self) -> Iterator[Any]:
        """Batches, and the break."""
        for batch in self.inner:
            if self.left == 0:
                raise Interrupted
            self.left -= 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The source's position."""
        return self.inner.state_dict()

    def load_state_dict(self, state: Any) -> None:
        """Move to a position."""
        self.inner.load_state_dict(state)

    def part(self, number: int, of: int) -> ActivationSource:
        """A part, as fragile; ``own`` is the last one."""
        self.own = Fragile(self.inner.part(number, of), self.left)
        return self.own
