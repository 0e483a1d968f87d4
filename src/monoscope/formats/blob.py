"""Blob: bytes that are read by range, so that a tensor costs what is read of it and not the file it lies in."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monoscope.core.errors import DataError

Span = tuple[int, int]
"""From a byte to another, which is not part of it."""


class Blob(ABC):
    """Bytes of a file, wherever it lies."""

    name: str  # as the user knows it, for errors
    size: int

    @abstractmethod
    def into(self, spans: Sequence[Span], buffer: memoryview) -> None:
        """Read spans one behind the other into a buffer of just their size."""

    def read(self, start: int, stop: int) -> bytes:
        """The bytes of one span. Raises DataError where the file ends before."""
        if not 0 <= start <= stop <= self.size:
            raise DataError(f"{self.name} ends after {self.size:,} bytes, and {stop:,} are needed: it was cut short")
        buffer = bytearray(stop - start)
        self.into([(start, stop)], memoryview(buffer))
        return bytes(buffer)

    def stream(self) -> io.BufferedReader:
        """The bytes as a file to seek and read in, for readers that need one."""
        return io.BufferedReader(_Stream(self), 2**14)


class FileBlob(Blob):
    """A file on this machine; opened for each read, so that nothing stays open."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path, self.name = path, name or str(path)
        try:
            self.size = path.stat().st_size
        except OSError as error:
            raise DataError(f"cannot read {self.name}: {error.strerror}") from None

    def into(self, spans: Sequence[Span], buffer: memoryview) -> None:
        """Read spans one behind the other into a buffer of just their size."""
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"cannot read {self.name}: {error.strerror}") from None
        try:
            if len(spans) > 1 and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
            filled = 0
            for start, stop in spans:
                while start < stop:
                    n = os.preadv(file, [buffer[filled : filled + stop - start]], start)
                    if n == 0:
                        raise DataError(f"{self.name} ends before byte {stop:,}: it was cut short")
                    start, filled = start + n, filled + n
        finally:
            os.close(file)


class _Stream(io.RawIOBase):
    """A blob as a raw file."""

    def __init__(self, blob: Blob) -> None:
        super().__init__()
        self.blob, self.at = blob, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = max(0, offset + (0, self.at, self.blob.size)[whence])
        return self.at

    def readinto(self, buffer: Any) -> int:
        stop = max(self.at, min(self.at + len(buffer), self.blob.size))
        data = self.blob.read(self.at, stop) if stop > self.at else b""
        buffer[: len(data)] = data
        self.at = stop
        return len(data)
