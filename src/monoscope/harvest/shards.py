"""Shards: the files that hold a store's rows, each whole as its checksum says, or named as one that is not.

    shard-00003.safetensors                      of one process
    part-00001-of-00004/shard-00003.safetensors  of one of several

Checksums are XXH3 of 128 bits: they find damage, at a small part of the time that a cryptographic hash would take
(on the two-core machine this was written on 11 GB/s, against 0.8 GB/s of SHA-256 and 2.1 GB/s of CRC-32). Stores from
before carry SHA-256, which is checked as well. Who may write the store may write its checksums, so neither guards
against intent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError, safe_open

from monoscope.core.errors import CorruptError, DataError
from monoscope.core.stores.remote import Location

NAME = re.compile(r"(part-\d{5}-of-\d{5}/)?shard-\d{5}\.safetensors")
HASHES: dict[str, Callable[[], Any]] = {"xxh3": xxhash.xxh3_128, "sha256": hashlib.sha256}


@dataclass(frozen=True)
class Shard:
    """One file of a store: its rows, those of its tokens that count, and what its bytes must be."""

    file: str
    rows: int
    tokens: int | None
    bytes: int
    checksum: str

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Shard:
        """A shard as a manifest says it. Raises DataError for a name that no store gives, or a size that cannot be."""
        own = dict(table)
        if "sha256" in own:  # as it was before tokens were counted
            digest = own.pop("sha256")
            own |= {"tokens": None, "checksum": f"sha256:{digest}"}
        shard = cls(**own)
        kind, _, digest = shard.checksum.partition(":")
        if not NAME.fullmatch(shard.file) or shard.rows < 1 or shard.bytes < 1 or kind not in HASHES or not digest:
            raise DataError(f"a manifest names a shard that cannot be: {dict(table)}")
        return shard


def checksum(path: Path, kind: str = "xxh3") -> str:
    """Checksum of a file, with the name of the hash in front."""
    with path.open("rb") as file:
        return f"{kind}:{hashlib.file_digest(file, HASHES[kind]).hexdigest()}"


def check_size(directory: Location, shard: Shard, found: Mapping[str, int]) -> None:
    """Raises CorruptError unless a shard is among the files found in its store, with the size it was written with."""
    if (size := found.get(shard.file)) is None:
        raise CorruptError(f"{directory / shard.file} is missing; harvest again")
    if size != shard.bytes:
        raise CorruptError(f"{directory / shard.file} is not whole: {size:,} of {shard.bytes:,} bytes; harvest again")


def open_shard(path: Path, shard: Shard, tensors: Mapping[str, list[int]], *, verify: bool, place: Location) -> Any:
    """A shard's file, opened lazily; ``verify`` compares it with its checksum. Raises CorruptError.

    place: what errors call it, where the file is a copy
    """
    try:
        if verify and checksum(path, shard.checksum.partition(":")[0]) != shard.checksum:
            raise CorruptError(f"{place} was changed after it was written: its checksum differs; harvest again")
        file = safe_open(path, framework="pt")
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CorruptError(f"{place} is missing; harvest again") from None
    except SafetensorError as error:
        raise CorruptError(f"{place} is not a safetensors file ({error}); harvest again") from None
    expected = {name: [shard.rows, *shape] for name, shape in tensors.items()}
    if found != expected:
        raise CorruptError(f"{place} holds {found}, and the manifest says {expected}; harvest again")
    return file
