"""Copies of a store's shards on this machine, where the store is elsewhere: one ahead of the reading, within a bound.

While a shard is read, the next is on its way. A shard that was read stays for the next pass as long as there is room,
and otherwise goes: of a store larger than the room, which is read from end to end again and again, that keeps the same
first shards, where dropping the least recently used would keep none in time.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from monoscope.core.errors import CorruptError
from monoscope.core.scratch import Scratch
from monoscope.core.stores.remote import Remote
from monoscope.harvest.shards import Shard

ROOM = 4 * 2**30
"""Bytes of copies that are kept; the shard in reading and the next may take more."""


class Copies:
    """Copies of shards in a temporary directory gone with the reader."""

    def __init__(self, store: Remote, room: int = ROOM) -> None:
        self.store, self.room = store, room
        self._scratch = Scratch()
        self.directory = self._scratch.path
        self._fetcher = ThreadPoolExecutor(1, "fetch")
        self._copies: dict[str, Future[Path]] = {}
        self._bytes: dict[str, int] = {}

    def of(self, shard: Shard, following: Shard | None = None) -> Path:
        """The copy of a shard; ``following`` is sent for meanwhile. Raises CorruptError where there is no such file."""
        wanted = [shard] if following is None else [shard, following]
        names = {one.file for one in wanted}
        for name in [name for name in reversed(self._copies) if name not in names]:  # the last one read goes first
            if sum(self._bytes.values()) + sum(one.bytes for one in wanted if one.file not in self._bytes) > self.room:
                self._drop(name)
        for one in wanted:
            if one.file not in self._copies:
                self._bytes[one.file] = one.bytes
                self._copies[one.file] = self._fetcher.submit(self._fetch, one)
        try:
            return self._copies[shard.file].result()
        except BaseException:
            self._drop(shard.file)  # the next attempt may be luckier
            raise

    def _fetch(self, shard: Shard) -> Path:
        path = self.directory / shard.file
        try:
            (self.store / shard.file).fetch(path)
        except FileNotFoundError:
            raise CorruptError(f"{self.store / shard.file} is missing; harvest again") from None
        return path

    def _drop(self, name: str) -> None:
        self._copies.pop(name).cancel()
        del self._bytes[name]
        (self.directory / name).unlink(missing_ok=True)
