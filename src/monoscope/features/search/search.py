"""Search: one box over every dictionary that was opened, in a directory that can be made anew at any time.

    search = Search(directory, workspace)
    search.add("gpt2-8-res", bundle)
    search.prepare()
    search.query("closing brackets", limit=20).hits[0].why

``prepare`` makes what is missing, with progress; a query brings what a few changed labels left behind up to date by
itself, and says in words what it could not look at. Any number of processes may share the directory.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from monoscope.core.errors import DataError, nearest
from monoscope.features.bundle import FeatureBundle
from monoscope.features.search import derived
from monoscope.features.search.database import Database
from monoscope.features.search.embedder import Embedder
from monoscope.features.search.find import find
from monoscope.features.search.lines import LineIndex
from monoscope.features.search.meaning import VectorFile
from monoscope.features.search.query import parse
from monoscope.features.search.records import MODES, Found, Hit, Match, Mode
from monoscope.features.search.searched import Index, Searched
from monoscope.features.workspace import BusyError, Workspace

AT_ONCE = 300  # changed features that a query indexes by itself
MOST_HITS = 500
PATIENCE_S = 600


class Search:
    """See the module. ``embedder``: searches by meaning, where there is one."""

    def __init__(self, directory: Path | str, workspace: Workspace, embedder: Embedder | None = None) -> None:
        self.root, self.workspace = Path(directory), workspace
        meaning = None if embedder is None else VectorFile(self.root / "meaning", embedder)
        self.index = Index(LineIndex(self.root / "lines.db", workspace), Database(), meaning)
        self.searched: dict[str, Searched] = {}

    @property
    def modes(self) -> tuple[Mode, ...]:
        """What can be asked now."""
        absent = {"semantic"} if self.index.meaning is None else set()
        if not any(one.directions is not None for one in self.searched.values()):
            absent.add("like")
        return tuple(mode for mode in MODES if mode not in absent)

    def add(self, name: str, bundle: FeatureBundle) -> None:
        """Search a bundle, too, under a name. What is derived from it already is opened; nothing is made."""
        one = Searched(name, bundle, self.index)
        one.open(self.root)
        self.index.lines.add(one.fingerprint, bundle.column("density"))
        self.searched[name] = one

    def remove(self, name: str) -> None:
        """Search a bundle no more; what was derived stays."""
        self.searched.pop(name, None)

    def waiting(self) -> list[str]:
        """Names of dictionaries for which ``prepare`` has something to do."""
        return [name for name, one in list(self.searched.items()) if self._missing(one)]

    def prepare(self, names: Iterable[str] | None = None) -> None:
        """Make what is missing or stale for these dictionaries, or for all, with progress; read what queries use."""
        names = list(self.searched if names is None else names)
        for name in names:
            one = self._one(name)
            if not one.open(self.root):
                derived.derive(self.root, one.bundle)
                one.open(self.root)
            self._refresh(one)
            if self.index.meaning is not None:
                self.index.meaning.rows([text for _, _, text in one.sheet().lines], make=True)
        self.warm(names)

    def warm(self, names: Iterable[str] | None = None) -> None:
        """Read what queries use, so that the first one does not wait for it."""
        for name in list(self.searched) if names is None else names:
            one = self._one(name)
            one.warm()
            self.workspace.labels.all(one.fingerprint)

    def query(
        self,
        text: str,
        *,
        mode: Mode | str = "auto",
        names: Sequence[str] | None = None,
        labeled: bool | None = None,
        limit: int = 50,
    ) -> Found:
        """The features that a text finds, best first; at most 500.

        names: of the dictionaries to search, all by default; labeled: features with a label only, or without one only.
        Raises ConfigError for a regular expression that is none, a query that is too long, or a mode that is not there.
        """
        started = time.perf_counter()
        asked = parse(text, mode, self.modes)
        chosen = [self._one(name) for name in (self.searched if names is None else names)]
        limit = max(1, min(limit, MOST_HITS))
        notes = self._catch_up(chosen)
        found = find(self.index, asked, chosen, limit if labeled is None else 4 * limit, notes)
        hits = self._hits(found, labeled)
        more = len(hits) > limit or any(len(matches) >= limit for matches in found.values())
        ms = (time.perf_counter() - started) * 1000
        return Found(tuple(hits[:limit]), more, asked.mode, self.modes, tuple(dict.fromkeys(notes)), round(ms, 2))

    def close(self) -> None:
        """Give up files and connections."""
        self.index.lines.close()
        self.index.database.close()

    def _one(self, name: str) -> Searched:
        if name not in self.searched:
            raise DataError(f"no dictionary {name!r} is searched; {nearest(name, self.searched)}")
        return self.searched[name]

    def _missing(self, one: Searched) -> bool:
        behind = self.index.lines.behind(one.fingerprint)
        if not one.open(self.root) or behind is None or behind > AT_ONCE:
            return True
        return self.index.meaning is not None and bool((one.rows()[1] < 0).any())

    def _refresh(self, one: Searched) -> None:
        """Bring lines up to date, after another process that is at it."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.index.lines.refresh(one.fingerprint)
                return
            except BusyError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def _catch_up(self, chosen: list[Searched]) -> list[str]:
        """Index what little changed; say what is behind."""
        notes = []
        latest, indexed = self.workspace.labels.serials(), self.index.lines.serials()
        for one in chosen:
            if not one.open(self.root):
                notes.append(f"tokens and contexts of {one.name} are not indexed yet")
            if latest.get(one.fingerprint, 0) == indexed.get(one.fingerprint, 0):
                continue
            behind = self.index.lines.behind(one.fingerprint)
            if behind is None or behind > AT_ONCE:
                notes.append(f"the labels of {one.name} are not all indexed yet")
                continue
            try:
                self.index.lines.refresh(one.fingerprint)
            except BusyError:
                notes.append(f"the latest labels of {one.name} are being indexed")
        return notes

    def _hits(self, found: dict[str, list[Match]], labeled: bool | None) -> list[Hit]:
        """One hit a feature: its best match, raised a little by what else matched."""
        hits = []
        for name, matches in found.items():
            labels = self.workspace.labels.all(self.searched[name].fingerprint)
            by_feature: dict[int, list[Match]] = defaultdict(list)
            for match in matches:
                by_feature[match.feature].append(match)
            for feature, its in by_feature.items():
                label = labels.get(feature)
                if labeled is not None and labeled != (label is not None):
                    continue
                best = max(its, key=lambda match: match.score)
                others = {match.why: match.score for match in its if match.why != best.why}
                score = best.score + (1 - best.score) * min(0.5, 0.25 * sum(others.values()))
                text = None if label is None else label.text
                hits.append(Hit(name, feature, text, best.why, best.snippet, best.ranges, round(min(score, 1.0), 4)))
        return sorted(hits, key=lambda hit: (-hit.score, hit.dictionary, hit.feature))
