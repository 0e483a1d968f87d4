"""Folder: the files of one reference, and nothing else. Names that climb out and links that lead out are refused.

What is read is bounded: the number and depth of names, the size of configurations; tensors are read in part
(``formats.lazy``). The files may lie on this machine or elsewhere: a folder knows them by name.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from monoscope.core.errors import DataError, nearest
from monoscope.formats.blob import Blob, FileBlob
from monoscope.formats.lazy import Lazy
from monoscope.formats.tensor_files import TensorInfo, pickled, tensors_of

MOST_FILES, MOST_DEPTH = 100_000, 12
MOST_TEXT = 2**24  # bytes of a configuration
MOST_YAML, MOST_NESTED = 2**20, 5000  # characters, and brackets: reading many takes the square of their number
TENSOR_FILES = (".safetensors", ".npz", ".pt", ".pth", ".bin", ".ckpt")


class Folder(ABC):
    """The files of one reference.

    name: what the user calls it, a path or ``hf://...``, for errors and for layouts that say something by names
    license: what the files may be used for, where their place says so
    focus: the one file the user named, "" where it was a directory; the folder holds that file then, and what stands
    beside it except other files of tensors
    """

    name: str
    focus: str = ""
    license: str | None = None

    def __init__(self) -> None:
        self._tensors: dict[str, dict[str, Lazy]] = {}

    @property
    def origin(self) -> str:
        """The reference under which the same files are found later."""
        return self.name

    @abstractmethod
    def names(self) -> list[str]:
        """Relative paths of all files, sorted, with ``/`` between their parts."""

    @abstractmethod
    def path(self, name: str) -> Path:
        """The file on this machine; a folder elsewhere fetches it as a whole."""

    @abstractmethod
    def blob(self, name: str) -> Blob:
        """The file's bytes, by range."""

    @abstractmethod
    def within(self, prefix: str) -> Folder:
        """The folder of a directory in this one."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self.names()

    def where(self, name: str) -> str:
        """A file as errors call it."""
        return f"{self.name.rstrip('/')}/{name}"

    def check(self, name: str) -> str:
        """The name, if it is one of this folder's. Raises DataError, also for one that would climb out of it."""
        parts = PurePosixPath(name).parts
        if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in parts:
            raise DataError(f"{name!r} is not the name of a file in {self.name}: it leads out of it")
        if not self.has(name):
            raise DataError(f"{self.name} has no file {name}; {nearest(name, self.names() or ['nothing'])}")
        return name

    def text(self, name: str) -> str:
        """A text file. Raises DataError for one that is too large or not UTF-8."""
        blob = self.blob(name)
        if blob.size > MOST_TEXT:
            raise DataError(f"{self.where(name)} has {blob.size:,} bytes, and {MOST_TEXT:,} are the most of a text")
        try:
            return blob.read(0, blob.size).decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{self.where(name)} is not text in UTF-8") from None

    def json(self, name: str) -> dict[str, Any]:
        """The object of a JSON file."""
        try:
            return self._table(json.loads(self.text(name)), name)
        except (ValueError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self.where(name)} is not JSON: {error}") from None

    def yaml(self, name: str) -> dict[str, Any]:
        """The mapping of a YAML file, of plain values and without references, which could grow without end."""
        text = self.text(name)
        if len(text) > MOST_YAML or text.count("[") + text.count("{") > MOST_NESTED:
            raise DataError(f"{self.where(name)} is too large or too deep for a configuration in YAML")
        try:
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
                raise DataError(f"{self.where(name)} refers to its own parts, which is not read")
            return self._table(yaml.safe_load(text), name)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self.where(name)} is not YAML: {str(error).splitlines()[0]}") from None

    def _table(self, value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise DataError(f"{self.where(name)} holds a {type(value).__name__}, where names with values are expected")
        return value

    def tensors(self, name: str, allow: Sequence[Any] = ()) -> Mapping[str, Lazy]:
        """The tensors of a file by name, unread. ``allow`` names classes that a pickle of this layout may hold."""
        if name not in self._tensors:
            self._tensors[name] = tensors_of(self.blob(name), allow)
        return self._tensors[name]

    def header(self, name: str, allow: Sequence[Any] = ()) -> dict[str, TensorInfo]:
        """Shapes and dtypes of a file's tensors; none of their numbers is read."""
        return {key: TensorInfo(lazy.shape, lazy.dtype) for key, lazy in self.tensors(name, allow).items()}

    def tensor(self, name: str, key: str, allow: Sequence[Any] = ()) -> Lazy:
        """One tensor of a file, unread. Raises DataError where there is none of the name."""
        tensors = self.tensors(name, allow)
        if key not in tensors:
            raise DataError(f"{self.where(name)} has no tensor {key!r}; {nearest(key, tensors or ['nothing'])}")
        return tensors[key]

    def pickled(self, name: str, allow: Sequence[Any] = ()) -> Any:
        """What a .pt file holds, tables and plain values too, with a Lazy for every tensor."""
        return pickled(self.blob(name), allow)


def is_hidden(name: str) -> bool:
    """Whether a part of a name begins with a dot, save for the index of a checkpoint of torch.distributed."""
    return any(part.startswith(".") for part in name.split("/")) and not name.endswith(".dcp/.metadata")


class LocalFolder(Folder):
    """A directory on this machine, or the one of a file."""

    def __init__(self, path: Path | str, name: str | None = None) -> None:
        super().__init__()
        given = Path(path)
        self.name = name or str(path)
        try:
            root = given.resolve(strict=True)
        except (OSError, RuntimeError):
            raise DataError(f"there is nothing at {self.name}") from None
        if root.is_file():
            self.focus = given.name
            root = (given.parent if given.is_symlink() else root.parent).resolve()
            self.name = str(given.parent) if name is None else name.rpartition("/")[0]
        self.root = root
        self._names: list[str] | None = None

    def names(self) -> list[str]:
        """Relative paths of all files; what begins with a dot is left out."""
        if self._names is None:
            self._names = sorted(self._beside() if self.focus else self._walk())
        return self._names

    def _beside(self) -> list[str]:
        with os.scandir(self.root) as entries:
            names = [entry.name for entry in entries if entry.is_file() and not entry.name.startswith(".")]
        return [name for name in names if name == self.focus or not name.endswith(TENSOR_FILES)]

    def _walk(self) -> list[str]:
        found: list[str] = []
        for directory, folders, files in os.walk(self.root):
            inside = Path(directory).relative_to(self.root)
            if len(inside.parts) > MOST_DEPTH:
                raise DataError(f"{self.name} is more than {MOST_DEPTH} directories deep; name one further in")
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [name for file in files if not is_hidden(name := (inside / file).as_posix())]
            if len(found) > MOST_FILES:
                raise DataError(f"{self.name} holds more than {MOST_FILES:,} files; name a directory further in")
        return found

    def path(self, name: str) -> Path:
        """The file. Raises DataError for a link that leads out of the folder."""
        path = (self.root / self.check(name)).resolve()
        if not any(path.is_relative_to(place) for place in (self.root, *self._blobs())):
            raise DataError(f"{self.where(name)} is a link that leads out of the folder: refused")
        if not path.is_file():
            raise DataError(f"{self.where(name)} is no file")
        return path

    def _blobs(self) -> list[Path]:
        """Where a snapshot in the cache of the hub keeps its files: ``<repository>/snapshots/<revision>/...``."""
        for parent in self.root.parents:
            if parent.name == "snapshots" and (parent.parent / "blobs").is_dir():
                return [parent.parent / "blobs"]
        return [self.root.parent / "blobs"] if self.root.parent.name.startswith(("models--", "datasets--")) else []

    def blob(self, name: str) -> Blob:
        """The file's bytes, by range."""
        return FileBlob(self.path(name), self.where(name))

    def within(self, prefix: str) -> LocalFolder:
        """The folder of a directory in this one."""
        path = (self.root / prefix).resolve()
        if not path.is_relative_to(self.root) or not path.is_dir():
            raise DataError(f"{self.name} has no directory {prefix}")
        return LocalFolder(path, self.where(prefix))
