"""Files in a store that fsspec reaches, as ``s3://bucket/run``: the few verbs of ``Path`` that monoscope needs.

    a file is whole or absent    a store shows an upload once it has ended; a large one is sent in parts and joined then
    a directory is complete      once the file that says what it is stands there: it is written last, removed first
    nothing is renamed           stores cannot: a new name is a copy, file by file

Which store, and who asks, is configured as fsspec and the store's own tools do: ``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ``~/.aws``, ``FSSPEC_S3_...``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from monoscope.core.errors import ConfigError, DataError, OutputError
from monoscope.core.scratch import Scratch

URL = re.compile(r"[a-z][a-z0-9+.-]+://")
MARKS = ("manifest.json", "config.toml", "state.json")
"""Files that say what a directory is, once the others are there."""
CLAIM = ".claim"
EXTRAS = {"s3": "monoscope[s3]", "s3a": "monoscope[s3]", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


@dataclass(frozen=True)
class Remote:
    """A file or a directory of files in a store, by its URL."""

    url: str

    def __post_init__(self) -> None:
        scheme, _, path = self.url.partition("://")
        names = path.strip("/").split("/")
        if not URL.match(self.url) or not names[0] or {"", ".", ".."} & set(names):
            raise ConfigError(f"{self.url!r} is not the URL of a place in a store, as s3://bucket/run is")
        object.__setattr__(self, "url", f"{scheme}://{'/' * path.startswith('/')}{'/'.join(names)}")

    @cached_property
    def _at(self) -> tuple[Any, str]:
        """The store, and the path in it."""
        import fsspec

        scheme = self.url.partition("://")[0]
        try:
            return fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            package = EXTRAS.get(scheme)
            hint = f"; pip install '{package}'" if package else ""
            raise ConfigError(f"{self.url}: stores of kind {scheme!r} cannot be reached: {error}{hint}") from None

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """What stands behind the last slash."""
        return self.url.rpartition("/")[2]

    def exists(self) -> bool:
        """Whether there is a file here, or files below."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether there is a file here."""
        store, path = self._at
        with _reading(self):
            store.invalidate_cache(path)
            return store.isfile(path)

    def is_dir(self) -> bool:
        """Whether there are files below."""
        return bool(self.sizes())

    def sizes(self) -> dict[str, int]:
        """Bytes of every file below, by its path from here."""
        store, path = self._at
        with _reading(self):
            store.invalidate_cache(path)
            try:
                found = store.find(path, detail=True)
            except FileNotFoundError:
                return {}
        start = path.strip("/") + "/"
        below = {name.strip("/"): about["size"] for name, about in found.items()}
        return {name.removeprefix(start): size for name, size in below.items() if name.startswith(start)}

    def read_bytes(self) -> bytes:
        """The file's bytes."""
        store, path = self._at
        with _reading(self):
            return store.cat_file(path)

    def ranges(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of spans, each from a byte to another that is not part of it; fetched side by side."""
        store, path = self._at
        spans = [span for span in spans if span[1] > span[0]]
        with _reading(self):
            return store.cat_ranges([path] * len(spans), [start for start, _ in spans], [stop for _, stop in spans])

    def read_text(self, encoding: str = "utf-8") -> str:
        """The file's text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> None:
        """Put a file here; until it is whole, what was here stays."""
        store, path = self._at
        with _writing(self):
            store.pipe_file(path, data)

    def create(self, data: bytes) -> bool:
        """Put a file here unless there is one; whether it was put. Of several who try, a store lets one succeed."""
        store, path = self._at
        with _writing(self):
            store.invalidate_cache(path)
            try:
                store.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            return True

    def fetch(self, to: Path) -> None:
        """Copy the file to this machine. Raises FileNotFoundError where there is none."""
        store, path = self._at
        to.parent.mkdir(parents=True, exist_ok=True)
        with _reading(self):
            store.get_file(path, str(to))

    def put(self, file: Path) -> None:
        """Copy a file of this machine here."""
        store, path = self._at
        with _writing(self):
            store.put_file(str(file), path)

    def remove(self) -> None:
        """Remove the file, or all files below."""
        store, path = self._at
        with _writing(self):
            store.invalidate_cache(path)
            if store.exists(path):
                store.rm(path, recursive=True)


Location = Path | Remote


def is_url(value: object) -> bool:
    """Whether a value is the URL of a place in a store."""
    return isinstance(value, Remote) or (isinstance(value, str) and URL.match(value) is not None)


def location(value: Location | str) -> Location:
    """A place on this machine, or in a store where it is a URL."""
    if isinstance(value, (Path, Remote)):
        return value
    if value.startswith("file://"):
        return Path(value.removeprefix("file://"))
    return Remote(value) if URL.match(value) else Path(value)


def sizes(directory: Location) -> dict[str, int]:
    """Bytes of every file below a directory, by its path from there."""
    if isinstance(directory, Remote):
        return directory.sizes()
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.stat().st_size for path in files}


@contextmanager
def staged(path: Location) -> Iterator[Path]:
    """Where to write a file, atomically: the place itself, or one on this machine that is then sent to its store."""
    if isinstance(path, Path):
        yield path
        return
    with Scratch() as nearby:
        yield nearby / path.name
        path.put(nearby / path.name)


@contextmanager
def fetched(place: Remote, files: Iterable[str] | None = None) -> Iterator[Path]:
    """A directory of a store, or some files of it that are there, on this machine for as long as the block lasts."""
    with Scratch() as nearby:
        there = place.sizes()
        for name in there.keys() if files is None else there.keys() & set(files):
            (place / name).fetch(nearby / name)
        yield nearby


def send(directory: Path, to: Remote, files: Iterable[str] | None = None) -> None:
    """Copy files of a directory, all by default, to a store; what is there and not here is removed afterwards.

    Of the files in ``MARKS``, those that change are removed first and sent last: a directory without them is not
    complete, whoever reads it meanwhile.
    """
    here, there = sizes(directory), to.sizes()
    changed = sorted(here if files is None else files, key=lambda name: (Path(name).name in MARKS, name))
    for name in changed:
        if name in there and Path(name).name in MARKS:
            (to / name).remove()
    for name in changed:
        (to / name).put(directory / name)
    for name in there.keys() - here.keys() - {CLAIM}:
        (to / name).remove()


@contextmanager
def _reading(place: Remote) -> Iterator[None]:
    """Turns a store's refusals into errors that name the place. Every store has errors of its own."""
    try:
        yield
    except (FileNotFoundError, ConfigError):
        raise
    except Exception as error:
        raise DataError(f"{place} cannot be read: {_what(error)}") from error


@contextmanager
def _writing(place: Remote) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, ConfigError):
        raise
    except Exception as error:
        raise OutputError(f"cannot write {place}: {_what(error)}") from error


def _what(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
