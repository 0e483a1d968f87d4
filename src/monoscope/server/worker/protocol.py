"""Frames between server and worker: a JSON head and raw bytes, nothing that could run.

    frame = length of head u32, length of payload u64, head (UTF-8 JSON), payload

Both lengths are bounded. Arrays travel in the payload, one behind the other; the head says their names, types, shapes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

HEADER = struct.Struct("<IQ")
MOST_HEAD, MOST_PAYLOAD = 2**27, 2**33
DTYPES = ("float32", "float64", "int32", "int64", "bool")


class Frame(BaseModel):
    """What heads have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Ask(Frame):
    """To the worker: a task to do.

    seconds: time it may take from its arrival on, None for any; background: gives way to tasks that are not
    """

    kind: Literal["ask"] = "ask"
    id: int
    task: str
    body: dict[str, Any]
    seconds: float | None = None
    background: bool = False


class Cancel(Frame):
    """To the worker: stop a task, at its next step."""

    kind: Literal["cancel"] = "cancel"
    id: int


class ArraySpec(Frame):
    """An array in the payload."""

    name: str
    dtype: Literal["float32", "float64", "int32", "int64", "bool"]
    shape: tuple[int, ...]


class Told(Frame):
    """From the worker.

    kind: started, event (named, any number), done (with the result), failed (with title and detail); state (id 0)
    """

    kind: Literal["started", "event", "done", "failed", "state"]
    id: int
    name: str = ""
    body: dict[str, Any] = {}
    arrays: tuple[ArraySpec, ...] = ()


def packed(frame: Frame, arrays: Mapping[str, np.ndarray] | None = None) -> bytes:
    """Bytes of a frame; ``arrays`` are told of in the head of a Told."""
    payload = b""
    if arrays:
        plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        specs = [{"name": name, "dtype": str(array.dtype), "shape": list(array.shape)} for name, array in plain.items()]
        frame = type(frame).model_validate(frame.model_dump() | {"arrays": specs})
        payload = b"".join(array.tobytes() for array in plain.values())
    head = frame.model_dump_json().encode()
    return HEADER.pack(len(head), len(payload)) + head + payload


def lengths(header: bytes) -> tuple[int, int]:
    """Lengths of head and payload. Raises ValueError for what no frame begins with."""
    head, payload = HEADER.unpack(header)
    if head > MOST_HEAD or payload > MOST_PAYLOAD:
        raise ValueError(f"a frame of {head} and {payload} bytes is no frame")
    return head, payload


def arrays_of(told: Told, payload: bytes) -> dict[str, np.ndarray]:
    """The arrays of a payload. Raises ValueError if it is not as long as the head says."""
    arrays, start = {}, 0
    for spec in told.arrays:
        size = int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
        arrays[spec.name] = np.frombuffer(payload[start : start + size], spec.dtype).reshape(spec.shape)
        start += size
    if start != len(payload):
        raise ValueError(f"a payload of {len(payload)} bytes, and arrays of {start}")
    return arrays
