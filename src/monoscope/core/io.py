"""Files that are whole or absent: atomic writes, manifests, fingerprints, output directories with one owner.

Whatever takes a place takes it by ``settle``: the bytes reach the disk, then the name, then the directory that holds
the name. A kill or a power loss at any moment leaves what stood there before, or what was to stand there.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from monoscope.core.errors import DataError, OutputError
from monoscope.core.locks import locked
from monoscope.core.scratch import Scratch
from monoscope.core.stores.remote import CLAIM, Location, Remote, send

if TYPE_CHECKING:
    from monoscope.core.tensors import fingerprint_tensors as fingerprint_tensors
    from monoscope.core.tensors import read_tensors as read_tensors
    from monoscope.core.tensors import write_tensors as write_tensors

MANIFEST = "manifest.json"
LOCK = ".lock"


def __getattr__(name: str) -> Any:
    """Files of tensors are found here too; torch loads with the first of them, which those who read text never need."""
    if name not in ("fingerprint_tensors", "read_tensors", "write_tensors"):
        raise AttributeError(f"module 'monoscope.core.io' has no attribute {name!r}")
    from monoscope.core import tensors

    return getattr(tensors, name)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling to write to; it takes ``path``'s place, on disk, when the block ends without an error."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            settle(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def settle(complete: Path, path: Path) -> None:
    """Move a complete file or directory to its place on the same file system, so that it outlasts a power loss."""
    sync(complete)
    os.replace(complete, path)
    _fsync(path.parent)


def sync(path: Path) -> None:
    """Put a file on disk, or a directory and everything in it."""
    if path.is_dir():
        for entry in path.iterdir():
            sync(entry)
    _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Location, text: str) -> None:
    """Write a text file atomically."""
    if isinstance(path, Remote):
        path.write_bytes(text.encode())
        return
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Location, value: Any) -> None:
    """Write a JSON file atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def is_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, is a disk without room."""
    cause = error.__cause__ or error
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals into errors that name the path and what to do."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
            raise OutputError(
                f"the disk that holds {path} is full: {free:,} bytes are free; what was complete is still there"
            ) from error
        refused = error.errno in (
            errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG
        )  # fmt: skip
        here = error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(path.parent)
        if refused and here:
            raise OutputError(f"cannot write {path}: {error.strerror}; choose another place with --out") from error
        raise


@contextmanager
def output_directory(path: Location, *, force: bool = False) -> Iterator[Path]:
    """A temporary sibling directory that becomes ``path`` when the block ends without an error.

    Raises OutputError if ``path`` exists and is not an empty directory, unless ``force``; what stood there is removed
    only once its replacement is complete. What killed processes had begun to write there is removed. At the URL of a
    store, which renames nothing, the files that say what the directory is go first and come last.
    """
    if isinstance(path, Remote):
        refuse_existing(path, force=force)
        with Scratch() as nearby:
            yield nearby
            send(nearby, path)
        return
    path = Path(path).resolve()
    refuse_existing(path, force=force)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with locked(partial):
            _remove_leftovers(path)
            try:
                yield partial
                replace_directory(partial, path)
            finally:
                shutil.rmtree(partial, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Remove directories that were to become ``path``, and whose writers, which held a lock on them, are gone."""
    for entry in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if entry.is_dir():
            with locked(entry) as is_free:
                if is_free:
                    remove(entry)


def replace_directory(complete: Path, path: Path) -> None:
    """Move a complete directory to ``path``, on the same disk; what stands there is removed afterwards."""
    with writing(path):
        if not path.exists():
            settle(complete, path)
            return
        sync(complete)
        _exchange(complete, path)
        _fsync(path.parent)
        remove(complete)


def _exchange(one: Path, other: Path) -> None:
    """Swap the names of two directories: at once where the system can, so that no kill finds either name missing."""
    import ctypes

    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is None or swap(here, os.fsencode(one), here, os.fsencode(other), exchange):
        aside = other.with_name(f".{other.name}.{os.getpid()}.replaced.partial")
        os.replace(other, aside)
        os.replace(one, other)
        os.replace(aside, one)


def refuse_existing(path: Location, *, force: bool = False) -> None:
    """Raises OutputError if something already stands at ``path``, unless ``force``, or another process writes there.

    An empty directory is nothing, nor is what a killed process had begun to write there.
    The current directory, and those above it, are refused even with ``force``.
    """
    if isinstance(path, Remote):
        if not force and any(name != CLAIM for name in path.sizes()):
            raise OutputError(f"{path} exists; choose another place, or replace it with --force")
        return
    if Path.cwd().is_relative_to(path.resolve()):
        raise OutputError(f"{path} is where this command runs; name a directory of its own")
    if not path.exists():
        return
    if by := _holder(path):
        raise OutputError(f"{path} is in use by {by}")
    if force:
        return
    if path.is_dir() and all(entry.name == LOCK or is_partial(entry) for entry in path.iterdir()):
        return
    raise OutputError(f"{path} exists; choose another place, or replace it with --force")


def is_partial(path: Path) -> bool:
    """Whether a path is one under which this library writes what is not complete yet."""
    return path.name.startswith(".") and path.name.endswith(".partial")


def remove(path: Location) -> None:
    """Remove a file or a directory tree."""
    if isinstance(path, Remote):
        path.remove()
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def owned(directory: Path) -> Iterator[None]:
    """Holds a directory for this process alone. Raises OutputError, naming the holder, if another process has it.

    The lock is the operating system's, so it is gone with the process, however that ends. A directory that was made
    for the block and in which it left nothing is removed.
    """
    is_new = not directory.exists()
    with _lock_of(directory) as file:
        file.truncate(0)
        file.write(f"{os.getpid()} on {os.uname().nodename}")
        file.flush()
        if is_new:
            _fsync(directory.parent)
        try:
            yield
        finally:
            if is_new and directory.is_dir() and [entry.name for entry in directory.iterdir()] == [LOCK]:
                remove(directory)


def _lock_of(directory: Path) -> TextIO:
    """The lock file of a directory, which is made, held by this process until it is closed."""
    import fcntl

    lock = directory / LOCK
    while True:
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            file = lock.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            with file:
                raise OutputError(f"{directory} is in use by {_holder_says(file.read())}") from None
        # Whoever held it may have moved the directory away meanwhile, and the lock with it.
        if lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
            return file
        file.close()


def _holder(directory: Path) -> str | None:
    """The process that holds a directory; None if none does."""
    lock = directory / LOCK
    if not lock.is_file():
        return None
    with locked(lock) as is_free:
        return None if is_free else _holder_says(lock.read_text())


def _holder_says(text: str) -> str:
    return f"process {text.strip() or '?'}"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(directory: Location, schema: str, version: int, body: Mapping[str, Any]) -> None:
    """Write a directory's ``manifest.json``: schema and version, the library's version, the body. Write it last."""
    from monoscope import __version__

    head = {"schema": schema, "schema_version": version, "generator": {"name": "monoscope", "version": __version__}}
    write_json(directory / MANIFEST, head | dict(body))


def read_manifest(directory: Location, schema: str, version: int) -> dict[str, Any]:
    """A directory's manifest. Raises DataError if it is missing, of another schema, or from a newer version."""
    path = directory / MANIFEST
    if not path.is_file():
        raise DataError(f"{directory} holds no {MANIFEST}: not a complete {schema} directory")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != schema:
        found = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        raise DataError(f"{directory} holds {found!r}, not {schema!r}")
    found = manifest.get("schema_version")
    if not isinstance(found, int):
        raise DataError(f"{path} states no schema_version; found {found!r}")
    if found > version:
        generator = manifest.get("generator", {})
        raise DataError(
            f"{directory} has {schema} version {found}, and this monoscope reads up to {version}; "
            f"it was written by {generator.get('name')} {generator.get('version')}"
        )
    return manifest
