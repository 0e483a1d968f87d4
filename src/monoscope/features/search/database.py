"""DuckDB, for regular expressions: RE2, whose time grows with the text and never explodes.

Source: github.com/google/re2/wiki/Syntax.
"""

from __future__ import annotations

import threading
from typing import Any

import pyarrow as pa

from monoscope.core.errors import ConfigError

# What comes before the match is taken as short as can be, so that the match is the first one.
STATEMENT = """
SELECT line, found.before, found.matched FROM (
    SELECT line, regexp_extract(text, $whole, ['before', 'matched']) AS found
    FROM (SELECT line, text FROM lines WHERE regexp_matches(text, $pattern) ORDER BY line LIMIT $most)
) ORDER BY line
"""


class Database:
    """A connection without files, extensions or network; each query takes a cursor of its own."""

    def __init__(self) -> None:
        self._connection: Any = None
        self._lock = threading.Lock()

    def matches(self, table: pa.Table, pattern: str, limit: int) -> list[tuple[int, str, str]]:
        """Lines of a table (line, text) where a pattern matches: number, what is before the match, and the match."""
        import duckdb

        with self._cursor() as cursor:
            cursor.register("lines", table)
            values = {"whole": f"(?s)^(.*?)({pattern})", "pattern": pattern, "most": limit}
            try:
                return cursor.execute(STATEMENT, values).fetchall()
            except (duckdb.InvalidInputException, duckdb.OutOfRangeException) as error:
                reason = str(error).partition(":")[2].strip() or str(error)
                plain = pattern.removeprefix("(?i)")
                raise ConfigError(f"{plain!r} is no regular expression that RE2 reads: {reason}") from None

    def close(self) -> None:
        """Give up the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _cursor(self) -> Any:
        import duckdb

        with self._lock:
            if self._connection is None:
                settings: dict[str, Any] = {"enable_external_access": "false", "threads": "2", "memory_limit": "1GB"}
                self._connection = duckdb.connect(":memory:", config=settings)
            return self._connection.cursor()
