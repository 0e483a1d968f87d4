"""Folders in a store that fsspec reaches, as ``s3://bucket/saes``: tensors are read by range."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monoscope.core.errors import DataError
from monoscope.core.scratch import Scratch
from monoscope.core.stores.remote import Remote
from monoscope.formats.blob import Blob, Span
from monoscope.formats.folder import MOST_FILES, TENSOR_FILES, Folder, is_hidden


class RemoteFolder(Folder):
    """A directory in a store, or the one of a file."""

    def __init__(self, place: Remote) -> None:
        super().__init__()
        self._sizes = place.sizes()
        if not self._sizes and place.is_file():
            self.focus = place.name
            place = Remote(place.url.rpartition("/")[0])
            beside = {name: size for name, size in place.sizes().items() if "/" not in name}
            self._sizes = {
                name: size for name, size in beside.items() if name == self.focus or not name.endswith(TENSOR_FILES)
            }
        self.place, self.name = place, place.url
        if not self._sizes:
            raise DataError(f"there is nothing at {place}")
        if len(self._sizes) > MOST_FILES:
            raise DataError(f"{place} holds more than {MOST_FILES:,} files; name a directory further in")
        self._copies: Scratch | None = None

    def names(self) -> list[str]:
        """Relative paths of all files; what begins with a dot is left out."""
        return sorted(name for name in self._sizes if not is_hidden(name))

    def path(self, name: str) -> Path:
        """A copy of the file on this machine, which goes with the folder."""
        if self._copies is None:
            self._copies = Scratch()
        path = self._copies.path / self.check(name)
        if not path.is_file():
            (self.place / name).fetch(path)
        return path

    def blob(self, name: str) -> Blob:
        """The file's bytes, by range."""
        return RemoteBlob(self.place / self.check(name), self._sizes[name])

    def within(self, prefix: str) -> RemoteFolder:
        """The folder of a directory in this one."""
        return RemoteFolder(self.place / prefix)


class RemoteBlob(Blob):
    """A file in a store, each span of which is asked for."""

    def __init__(self, place: Remote, size: int) -> None:
        self.place, self.name, self.size = place, place.url, size

    def into(self, spans: Sequence[Span], buffer: memoryview) -> None:
        """Read spans one behind the other into a buffer of just their size."""
        filled = 0
        for span, data in zip(spans, self.place.ranges(spans), strict=True):
            if len(data) < span[1] - span[0]:
                raise DataError(f"{self.name} ends before byte {span[1]:,}: it was cut short")
            buffer[filled : filled + len(data)] = data
            filled += len(data)
