"""Tables of features, answered by one DuckDB connection: in memory, without any access to files.

An order (the features a question leaves, sorted) is computed once and kept; pages and places are then looked up in it.
So a virtual table jumps anywhere for the price of its rows.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt32

from monoscope.features.bundle import FeatureBundle
from monoscope.server.pool import Stop
from monoscope.server.problems import ProblemError
from monoscope.server.table.added import Added
from monoscope.server.table.columns import TOKENS, Scalars, indices
from monoscope.server.table.question import Question

if TYPE_CHECKING:
    import duckdb

KEPT_BYTES = 64_000_000
CONFIG = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}


class Database:
    """The connection, the tables in it, and the orders that were asked for last. Safe to use from several threads.

    DuckDB is loaded when the first table is asked for, which the first page does not do.
    """

    def __init__(self, memory: str = "1GB", threads: int = 2) -> None:
        self._config: dict[str, Any] = {**CONFIG, "memory_limit": memory, "threads": str(threads)}
        self._made: duckdb.DuckDBPyConnection | None = None
        self._lock, self._making = threading.Lock(), threading.Lock()
        self._tables: dict[str, FeatureTable] = {}
        self._orders: OrderedDict[tuple[str, ...], UInt32[np.ndarray, " n"]] = OrderedDict()
        self._kept = 0

    def table(self, bundle: FeatureBundle) -> FeatureTable:
        """The table of a bundle; its columns are read when it is first asked for."""
        key = f"{bundle.path}|{bundle.manifest['fingerprint']}"
        with self._lock:
            if key not in self._tables:
                self._tables[key] = FeatureTable(self, f"t{len(self._tables)}", bundle)
            return self._tables[key]

    @property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        with self._making:
            if self._made is None:
                import duckdb

                self._made = duckdb.connect(":memory:", config=self._config)
                self._made.execute("SET lock_configuration = true")
            return self._made

    @contextmanager
    def cursor(self, stop: Stop) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor that ``stop`` interrupts. Raises ProblemError for what a user may have asked wrongly."""
        import duckdb

        cursor = self._connection.cursor()
        try:
            with stop.calling(cursor.interrupt):
                yield cursor
        except duckdb.InterruptException:
            raise ProblemError(499, "the request was given up before its answer was ready") from None
        except duckdb.OutOfMemoryException:
            raise ProblemError(503, "this question needs more memory than server.memory allows") from None
        except (duckdb.InvalidInputException, duckdb.OutOfRangeException, duckdb.ConversionException) as error:
            raise ProblemError(422, f"the filter cannot be applied: {str(error).splitlines()[0]}") from None
        finally:
            cursor.close()

    def close(self) -> None:
        """Forget all tables."""
        if self._made is not None:
            self._made.close()

    def load(self, name: str, table: pa.Table) -> None:
        """Make or replace a table."""
        with self._lock:
            cursor = self._connection.cursor()
            try:
                cursor.register(f"from_{name}", table)
                cursor.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM from_{name}")
                cursor.unregister(f"from_{name}")
            finally:
                cursor.close()

    def kept(self, key: tuple[str, ...]) -> UInt32[np.ndarray, " n"] | None:
        """An order that was computed before."""
        with self._lock:
            if key in self._orders:
                self._orders.move_to_end(key)
            return self._orders.get(key)

    def keep(self, key: tuple[str, ...], order: UInt32[np.ndarray, " n"]) -> None:
        """Remember an order; those asked for longest ago are forgotten."""
        with self._lock:
            if key not in self._orders:
                self._kept += order.nbytes
            self._orders[key] = order
            while self._kept > KEPT_BYTES and len(self._orders) > 1:
                self._kept -= self._orders.popitem(last=False)[1].nbytes


class FeatureTable:
    """The features of one bundle as a table."""

    def __init__(self, database: Database, name: str, bundle: FeatureBundle) -> None:
        self._database, self._name, self._bundle = database, name, bundle
        self._lock = threading.Lock()
        self._loaded: set[str] = set()
        self._added_version: str | None = None

    @cached_property
    def scalars(self) -> Scalars:
        """The bundle's columns."""
        return Scalars.of(self._bundle.features, self._bundle.token_table.column("text"))

    @cached_property
    def token_ids(self) -> dict[str, list[int]]:
        """Ids of each text of the vocabulary."""
        ids: dict[str, list[int]] = {}
        for i, text in enumerate(self._bundle.vocabulary):
            ids.setdefault(text, []).append(i)
        return ids

    def question(self, filter: str, sort: str) -> Question:
        """A request's filter and sort order, checked against the columns."""
        return Question.of(self.scalars.kinds, filter, sort)

    def order(self, question: Question, added: Added, stop: Stop) -> UInt32[np.ndarray, " n"]:
        """The features that a question leaves, in its order."""
        version = added.version if question.joined else ""
        key = (self._name, version, question.key)
        if (order := self._database.kept(key)) is not None:
            return order
        x = self._ready(question, added)
        where, values = [f"({question.where})"], list(question.values)
        for name, texts in question.tokens:
            ids = [i for text in texts for i in self.token_ids.get(text, ())]
            marks = ", ".join("?" * len(ids))
            where.append(
                f"t.feature IN (SELECT feature FROM {self._name}_{name} WHERE token IN ({marks}))" if ids else "FALSE"
            )
            values += ids
        join = f"LEFT JOIN {x} x ON x.feature = t.feature" if question.joined else ""
        sql = f"SELECT t.feature FROM {self._name} t {join} WHERE {' AND '.join(where)} ORDER BY {question.order}"
        with self._database.cursor(stop) as cursor:
            order = cursor.execute(sql, values).fetchnumpy()["feature"].astype(np.uint32)
        self._database.keep(key, order)
        return order

    def column(self, name: str, rows: UInt32[np.ndarray, " n"]) -> pa.ChunkedArray:
        """Values of one of the bundle's columns."""
        return self.scalars.table.column(name).take(indices(rows))

    def _ready(self, question: Question, added: Added) -> str:
        """Loads what a question needs; the name of the table of what people added."""
        x = f"{self._name}_x"
        with self._lock:
            if "scalars" not in self._loaded:
                self._database.load(self._name, self.scalars.table)
                self._loaded.add("scalars")
            if question.joined and self._added_version != added.version:
                self._database.load(x, added.table())
                self._added_version = added.version
            for name, _ in question.tokens:
                if name not in self._loaded:
                    self._database.load(f"{self._name}_{name}", self._pairs(TOKENS[name]))
                    self._loaded.add(name)
        return x

    def _pairs(self, column: str) -> pa.Table:
        """Feature and token of a column of lists of ``details.parquet``, one row each."""
        lists = pq.read_table(self._bundle.path / "details.parquet", columns=["feature", column])
        flat = [pa.RecordBatch.from_arrays(*_flatten(batch)) for batch in lists.to_batches()]
        schema = pa.schema([("feature", pa.uint32()), ("token", pa.uint32())])
        return pa.Table.from_batches(flat, schema=schema)


def _flatten(batch: pa.RecordBatch) -> tuple[list[pa.Array], list[str]]:
    lists: Any = batch.column(1)
    parents = lists.value_parent_indices()
    return [batch.column(0).take(parents), lists.flatten()], ["feature", "token"]
