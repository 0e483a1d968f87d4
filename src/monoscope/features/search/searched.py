"""One dictionary of a search: its bundle, what is derived from it, and its lines in memory."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from monoscope.core.progress import silent
from monoscope.features.bundle import FeatureBundle
from monoscope.features.search import derived
from monoscope.features.search.corpus import Corpus
from monoscope.features.search.database import Database
from monoscope.features.search.lines import LineIndex
from monoscope.features.search.meaning import VectorFile
from monoscope.features.search.sheet import Sheet
from monoscope.features.search.tokens import TokenIndex

AT_ONCE = 16  # texts that are embedded while a query waits


@dataclass(frozen=True)
class Index:
    """What all dictionaries of a search share."""

    lines: LineIndex
    database: Database
    meaning: VectorFile | None


class Searched:
    """See the module. ``arrays``, ``tokens`` and ``corpus`` are None until they are derived."""

    def __init__(self, name: str, bundle: FeatureBundle, index: Index) -> None:
        self.name, self.bundle, self.index = name, bundle, index
        self.fingerprint = str(bundle.manifest["dictionary"]["fingerprint"])
        self.directions = derived.mapped_directions(bundle)
        self.arrays: derived.Arrays | None = None
        self.tokens: TokenIndex | None = None
        self.corpus: Corpus | None = None
        self._sheet: Sheet | None = None
        self._rows: tuple[Sheet, Int64[np.ndarray, " n"]] | None = None
        self._lock = threading.RLock()

    def open(self, root: Path) -> bool:
        """Open what is derived; whether it is there."""
        with self._lock:
            if self.arrays is None and derived.is_derived(root, self.bundle):
                arrays = derived.Arrays(derived.directory_of(root, self.bundle))
                self.tokens = TokenIndex(self.bundle, arrays)
                self.corpus = Corpus(arrays, len(self.bundle)) if "context.feature" in arrays else None
                self.arrays = arrays
            return self.arrays is not None

    def warm(self) -> None:
        """Make ready what the first query would wait for."""
        self.sheet().warm()
        if self.tokens is not None:
            self.tokens.warm()
        if self.corpus is not None:
            self.corpus.warm()

    def sheet(self) -> Sheet:
        """Its lines, as they are indexed now."""
        with self._lock:
            if self._sheet is None or self._sheet.serial != self.index.lines.serial(self.fingerprint):
                self._sheet = Sheet(*self.index.lines.texts(self.fingerprint))
            return self._sheet

    def rows(self) -> tuple[Sheet, Int64[np.ndarray, " n"]]:
        """Its lines, and the row of each one's vector; -1 where there is none yet. A few are made at once."""
        assert self.index.meaning is not None
        with self._lock:
            sheet = self.sheet()
            if self._rows is None or self._rows[0] is not sheet or bool((self._rows[1] < 0).any()):
                texts = [text for _, _, text in sheet.lines]
                rows = self.index.meaning.rows(texts, make=False)
                if 0 < (rows < 0).sum() <= AT_ONCE:
                    with silent():
                        rows = self.index.meaning.rows(texts, make=True)
                self._rows = sheet, rows
            return self._rows
