"""Labels by meaning: vectors of every text once, in one file that is mapped, and an exact product with the query's.

    vectors.f32   float32 [n, width], appended to
    rows          SQLite: hash of a text -> its row

Several processes may append: the row's number is taken in the transaction that writes the vector, and a vector without
a row is never read. 131k vectors of 384 are 201 MB, and one product with them is bound by reading them.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from monoscope.core.io import writing
from monoscope.core.progress import progress
from monoscope.features.search.embedder import Embedder

CHUNK = 256
BLOCK = 16384
BUSY_S = 5.0
KEPT_QUERIES = 256


class VectorFile:
    """Vectors of texts by one model."""

    def __init__(self, directory: Path, embedder: Embedder) -> None:
        self.embedder = embedder
        self._queries: dict[str, np.ndarray] = {}
        self.path = directory / embedder.fingerprint[:16]
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "vectors.f32").touch()
        with closing(self._connect()) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE IF NOT EXISTS rows (hash BLOB PRIMARY KEY, row INTEGER) WITHOUT ROWID")

    def rows(self, texts: list[str], *, make: bool) -> Int64[np.ndarray, " n"]:
        """Row of each text; -1 where there is none yet. ``make``: embed those first, in steps that outlive a stop."""
        hashes = [hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest() for text in texts]
        with closing(self._connect()) as connection:
            known = self._known(connection, hashes)
            if make:
                missing = {key: text for key, text in zip(hashes, texts, strict=True) if key not in known}
                with progress("embed labels", len(missing), "labels") as bar:
                    keys = sorted(missing, key=lambda key: len(missing[key]))
                    for start in range(0, len(keys), CHUNK):
                        chunk = keys[start : start + CHUNK]
                        self._append(connection, chunk, self.embedder([missing[key] for key in chunk]))
                        bar.advance(len(chunk))
                known |= self._known(connection, list(missing))
        return np.array([known.get(key, -1) for key in hashes], np.int64)

    def cosines(self, query: str) -> Float32[np.ndarray, " n"]:
        """Cosine of a text with every vector, row by row; then -1, which is where the row -1 points."""
        vector = self._asked(query)
        vectors = self._vectors()
        found = np.full(len(vectors) + 1, -1.0, np.float32)
        for start in range(0, len(vectors), BLOCK):
            block = vectors[start : start + BLOCK]
            np.matmul(block, vector, out=found[start : start + len(block)])
        return found

    def _asked(self, query: str) -> Float32[np.ndarray, " width"]:
        vector = self._queries.get(query)
        if vector is None:
            vector = self.embedder([query])[0]
            if len(self._queries) >= KEPT_QUERIES:
                self._queries = {}
            self._queries[query] = vector
        return vector

    def _vectors(self) -> np.ndarray:
        file = self.path / "vectors.f32"
        n = file.stat().st_size // (4 * self.embedder.width)
        if n == 0:
            return np.empty((0, self.embedder.width), np.float32)
        return np.memmap(file, np.float32, "r", shape=(n, self.embedder.width))

    def _append(self, connection: sqlite3.Connection, hashes: list[bytes], vectors: np.ndarray) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            with (self.path / "vectors.f32").open("r+b") as file:
                bytes_each = 4 * self.embedder.width
                first = -(-file.seek(0, 2) // bytes_each)  # what a kill cut short is left behind
                file.seek(first * bytes_each)
                file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
            rows = [(key, first + i) for i, key in enumerate(hashes)]
            connection.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?)", rows)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _known(self, connection: sqlite3.Connection, hashes: list[bytes]) -> dict[bytes, int]:
        if len(hashes) > 2000:
            every = dict(connection.execute("SELECT hash, row FROM rows"))
            return {key: every[key] for key in hashes if key in every}
        found = {}
        for key in hashes:
            if row := connection.execute("SELECT row FROM rows WHERE hash = ?", (key,)).fetchone():
                found[key] = row[0]
        return found

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path / "rows.db", timeout=BUSY_S, isolation_level=None)
