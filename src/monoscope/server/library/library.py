"""The library: what was found, under the ids by which requests name it.

Discovery and manifests come first and are fast. Which dictionary on disk a bundle is of is settled in the background,
since its weights must be read once; until then the bundle is shown, and cannot be run.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from monoscope.core.errors import DataError, MonoscopeError
from monoscope.features.bundle import FeatureBundle
from monoscope.server.library.discover import discover, is_inside
from monoscope.server.library.manifest import Manifest, SourcePart, open_bundle
from monoscope.server.library.models import find_model, has_template
from monoscope.server.library.slugs import slug
from monoscope.server.library.weights import fingerprint_weights


@dataclass(frozen=True, eq=False)
class Entry:
    """A bundle of the library. ``root``: the directory it may not lead out of."""

    id: str
    path: Path
    root: Path
    bundle: FeatureBundle
    manifest: Manifest

    @property
    def dictionary_fp(self) -> str:
        """Fingerprint of the dictionary it is of; labels go by it."""
        return self.manifest.dictionary.fingerprint

    @property
    def n_features(self) -> int:
        """How many features it has."""
        return self.manifest.dictionary.n_features


@dataclass(frozen=True)
class Run:
    """A directory of a training run."""

    id: str
    path: Path


@dataclass(frozen=True)
class Fault:
    """Something that cannot be read, and why."""

    id: str
    path: Path
    kind: Literal["bundle", "dictionary", "run"]
    problem: str


@dataclass(frozen=True)
class Weights:
    """Where a dictionary is: in our layout, or in one of another library, with the rules its files leave open."""

    path: Path
    layout: str | None = None
    chosen: Mapping[str, str] = field(default_factory=dict)


class Library:
    """Everything below some paths. Safe to use from several threads."""

    def __init__(self, paths: Iterable[Path], *, roots: Iterable[Path] = (), models: Iterable[Path] = ()) -> None:
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}
        self._runs: dict[str, Run] = {}
        self._faults: dict[str, Fault] = {}
        self._weights: dict[Path, str] = {}
        self._models = [path.resolve() for path in models]
        self.truncated = False
        self.matched = threading.Event()
        given = [path.resolve() for path in paths]
        self.roots = tuple(dict.fromkeys([*given, *(root.resolve() for root in roots)]))
        for path in given:
            self.add(path)

    def add(self, path: Path, *, root: Path | None = None) -> tuple[list[Entry], list[Run], list[Fault]]:
        """Find what stands at a path inside the roots, or inside one that the server itself knows.

        Raises DataError for one outside, or with nothing to show.
        """
        resolved = path.resolve()
        roots = self.roots if root is None else (root,)
        root = next((root for root in roots if is_inside(resolved, root)), None)
        if root is None:
            raise DataError(f"{path} lies outside of what this server may open")
        if not resolved.is_dir():
            raise DataError(f"{path} is not a directory; give a bundle, a run, a dictionary, or what holds some")
        found = discover(resolved)
        with self._lock:
            self.truncated |= found.truncated
            self._models += [model for model in found.models if model not in self._models]
            bundles = [self._bundle(bundle, root) for bundle in found.bundles]
            runs = [self._run(run) for run in found.runs]
            new = [weights for weights in found.dictionaries if weights not in self._weights]
            self._weights |= dict.fromkeys(new, "")
        if new:
            self.matched.clear()
            threading.Thread(target=self._match, args=(new,), name="match dictionaries", daemon=True).start()
        else:
            self.matched.set()
        entries = [item for item in bundles if isinstance(item, Entry)]
        faults = [item for item in bundles if isinstance(item, Fault)]
        return entries, runs, faults

    @property
    def entries(self) -> list[Entry]:
        """Bundles that can be read, in the order in which they were found."""
        with self._lock:
            return list(self._entries.values())

    @property
    def runs(self) -> list[Run]:
        """Training runs."""
        with self._lock:
            return list(self._runs.values())

    def without_features(self, path: Path) -> list[Path]:
        """Dictionaries at and below a path of which no bundle stands there."""
        inside = path.resolve()
        with self._lock:
            known = {entry.dictionary_fp for entry in self._entries.values() if entry.path.is_relative_to(inside)}
            return [at for at, found in self._weights.items() if at.is_relative_to(inside) and found not in known]

    @property
    def faults(self) -> list[Fault]:
        """What cannot be read."""
        with self._lock:
            return list(self._faults.values())

    def entry(self, id: str) -> Entry | Fault | None:
        """The bundle of an id, or why it cannot be read."""
        with self._lock:
            return self._entries.get(id) or self._faults.get(id)

    def run(self, id: str) -> Run | None:
        """The run of an id."""
        with self._lock:
            return self._runs.get(id)

    def entries_of(self, dictionary_fp: str) -> list[Entry]:
        """Bundles of one dictionary."""
        return [entry for entry in self.entries if entry.dictionary_fp == dictionary_fp]

    def described(self, path: Path) -> list[Entry]:
        """Bundles of the dictionary that stands at a path, those near it first."""
        with self._lock:
            found = self._weights.get(path)
        return sorted(self.entries_of(found), key=lambda entry: path.parent not in entry.path.parents) if found else []

    def weights_of(self, entry: Entry) -> Weights | None:
        """The dictionary a bundle is of, if it stands in the library, in our layout or in another library's."""
        with self._lock:
            own = next((path for path, found in self._weights.items() if found == entry.dictionary_fp), None)
        source = entry.manifest.dictionary.source
        if own is not None or not isinstance(source, SourcePart) or "\0" in source.where + source.entry:
            return own and Weights(own)
        # What a bundle names is not believed: only what stands below a root is opened, and then compared with it.
        path = Path(source.where) / source.entry
        if "://" in source.where or not path.exists() or not any(is_inside(path, root) for root in self.roots):
            return None
        return Weights(path.resolve(), source.layout, source.chosen)

    def dictionary_path(self, entry: Entry) -> Path | None:
        """Directory or file of the dictionary a bundle is of, if it stands in the library."""
        found = self.weights_of(entry)
        return found and found.path

    def model_path(self, entry: Entry) -> Path | None:
        """Directory of the model a bundle is of, if it is on this machine."""
        return self.find_model(entry.manifest.model.id)

    def find_model(self, name: str | None) -> Path | None:
        """Directory of a model by its name, if it is on this machine."""
        with self._lock:
            known = list(self._models)
        return find_model(name, self.roots, known)

    def is_live(self, entry: Entry) -> bool:
        """Whether new text can be run: the dictionary and its model are both here."""
        return self.dictionary_path(entry) is not None and self.model_path(entry) is not None

    def has_chat(self, entry: Entry) -> bool:
        """Whether the model's tokenizer turns conversations into text."""
        model = self.model_path(entry)
        return model is not None and has_template(model)

    def _bundle(self, path: Path, root: Path) -> Entry | Fault:
        for known in (*self._entries.values(), *self._faults.values()):
            if known.path == path:
                if isinstance(known, Entry):
                    return known
                del self._faults[known.id]  # it may have been mended
        id = slug(path, [*self._entries, *self._faults])
        try:
            item: Entry | Fault = Entry(id, path, root, *open_bundle(path, root))
            self._entries[id] = item
        except MonoscopeError as error:
            item = Fault(id, path, "bundle", str(error))
            self._faults[id] = item
        return item

    def _run(self, path: Path) -> Run:
        for known in self._runs.values():
            if known.path == path:
                return known
        run = Run(slug(path, self._runs), path)
        self._runs[run.id] = run
        return run

    def _match(self, paths: list[Path]) -> None:
        for path in sorted(paths, key=lambda path: _size(path / "weights.safetensors")):
            try:
                found = fingerprint_weights(path / "weights.safetensors")
            except DataError as error:
                with self._lock:
                    id = slug(path, [*self._entries, *self._faults])
                    self._faults[id] = Fault(id, path, "dictionary", str(error))
                continue
            with self._lock:
                self._weights[path] = found
        self.matched.set()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
