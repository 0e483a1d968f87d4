"""Checkpoints that fit any mesh: PyTorch's distributed checkpoints (DCP), in safetensors and JSON alone.

    directory/state.json                   everything but tensors, and the SHA-256 of every file
    directory/shard-...safetensors         what each process wrote: for every tensor, the part it holds

What processes share out is saved block by block, features first (``shard.Cut``), so that it can be read back by another
number of processes, each taking its own part; what all hold, one of them writes.

DCP is loaded where it is used: it takes 48 MB of a process, and a run of one process writes none.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monoscope.core.errors import DataError
from monoscope.core.io import sha256_file, write_json
from monoscope.core.mesh import Mesh
from monoscope.parallel.mesh import collect, share, together
from monoscope.parallel.shard import Cut

STATE = "state.json"
DTYPES = {"float32": torch.float32, "float64": torch.float64, "int64": torch.int64, "bool": torch.bool}
"""Of single numbers."""

CutOf = Callable[[str], Cut | None]
"""How the tensor under a key is shared out; None for one that all processes hold."""


def save_parts(directory: Path, state: Mapping[str, Any], cut_of: CutOf, mesh: Mesh, *, keeps: bool) -> None:
    """Write a state, of which every process gives its part, into an empty directory.

    ``state`` holds tables, lists, tensors, and what JSON can say. ``keeps``: of the processes that see the same
    directory, one. Raises on all processes what fails on one.
    """
    from torch.distributed.checkpoint import state_dict_saver
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    tensors: dict[str, Tensor] = {}
    table = _taken_apart(state, "", tensors)
    parts: dict[str, Any] = {}
    for key, value in tensors.items():
        cut = cut_of(key)
        if cut is None:
            parts[key] = value.detach().contiguous()
            continue
        rows = value.detach().movedim(cut.axis, 0).contiguous()
        for number, piece in enumerate(Cut(0, cut.blocks).pieces(rows, mesh.features.size)):
            parts[f"{key}/{number}"] = _on_mesh(piece.contiguous(), mesh)
    with together(mesh):
        with _alone(mesh):
            state_dict_saver.save(parts, storage_writer=HuggingFaceStorageWriter(str(directory), save_distributed=True))
        own = {path.name: sha256_file(path) for path in directory.glob(f"shard-{mesh.every.number + 1:05d}-*")}
    files = {name: sha for each in collect(mesh, own) for name, sha in each.items()}
    body = share(mesh, {"state": table, "files": files})  # what processes hold of their own is in their files
    with together(mesh):
        if keeps:
            write_json(directory / STATE, body)


def load_parts(directory: Path, cut_of: CutOf, mesh: Mesh) -> dict[str, Any]:
    """The state that processes wrote, of which this one gets its part, however many they were and are.

    Raises DataError for files that are missing, or were changed after they were written.
    """
    from torch.distributed.checkpoint import state_dict_loader
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    with together(mesh):
        body = json.loads((directory / STATE).read_text(encoding="utf-8"))
        for name, sha in list(body["files"].items())[mesh.every.number :: mesh.every.size]:
            if not (directory / name).is_file() or sha256_file(directory / name) != sha:
                raise DataError(f"{directory / name} is missing, or was changed after it was written")
    reader = HuggingFaceStorageReader(str(directory))
    found = reader.read_metadata().state_dict_metadata
    keys = list(dict.fromkeys(_keys(body["state"])))
    parts: dict[str, Any] = {}
    for key in keys:
        cut, of = cut_of(key), mesh.features.size
        names = [key] if cut is None else [f"{key}/{number}" for number in range(len(cut.blocks))]
        for name in names:
            about = found[name]
            shape = list(about.size)  # pyright: ignore[reportAttributeAccessIssue]
            if cut is not None:
                shape[0] //= of
            empty = torch.empty(shape, dtype=about.properties.dtype)  # pyright: ignore[reportAttributeAccessIssue]
            parts[name] = empty if cut is None else _on_mesh(empty, mesh)
    with _alone(mesh):
        state_dict_loader.load(parts, storage_reader=reader)
    tensors = {}
    for key in keys:
        cut = cut_of(key)
        if cut is None:
            tensors[key] = parts[key]
            continue
        rows = [_local(parts[f"{key}/{number}"], mesh) for number in range(len(cut.blocks))]
        tensors[key] = torch.cat(rows).movedim(0, cut.axis)
    return _put_together(body["state"], tensors)


def facts_of(directory: Path) -> dict[str, Any]:
    """The state that processes wrote, without its tensors. Raises DataError where it cannot be read."""
    try:
        return _put_together(json.loads((directory / STATE).read_text(encoding="utf-8"))["state"], {})
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{directory} cannot be read as a checkpoint: {error}") from None


def part_of(state: Any, cut_of: CutOf, mesh: Mesh, key: str = "") -> Any:
    """The part of this process, of a state that one process wrote whole."""
    if isinstance(state, Mapping):
        return {name: part_of(value, cut_of, mesh, f"{key}.{name}".lstrip(".")) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [part_of(value, cut_of, mesh, f"{key}.{number}") for number, value in enumerate(state)]
    if isinstance(state, Tensor) and state.ndim and (cut := cut_of(key)) is not None:
        return cut.part(state, mesh.features.number, mesh.features.size)
    return state


@contextmanager
def _alone(mesh: Mesh) -> Iterator[None]:
    """Silences what PyTorch has to say about a single process, which is meant."""
    with warnings.catch_warnings():
        if mesh.every.group is None:
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def _on_mesh(piece: Tensor, mesh: Mesh) -> Tensor:
    if mesh.devices is None:
        return piece
    from torch.distributed.tensor import DTensor, Replicate, Shard

    return DTensor.from_local(piece, mesh.devices, [Replicate(), Shard(0)], run_check=False)


def _local(piece: Any, mesh: Mesh) -> Tensor:
    return piece if mesh.devices is None else piece.to_local()


def _taken_apart(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """A state as JSON, its tensors taken out under their keys; tables with other keys than strings become pairs."""
    if isinstance(value, Tensor):
        if value.ndim == 0:
            return {"number": value.item(), "dtype": str(value.dtype).removeprefix("torch.")}
        tensors[key] = value
        return {"tensor": key}
    if isinstance(value, Mapping):
        pairs = [[name, _taken_apart(item, f"{key}.{name}".lstrip("."), tensors)] for name, item in value.items()]
        return {"table": pairs}
    if isinstance(value, (list, tuple)):
        return [_taken_apart(item, f"{key}.{number}", tensors) for number, item in enumerate(value)]
    return value


def _put_together(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_together(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors.get(value["tensor"])
    if "number" in value:
        return torch.tensor(value["number"], dtype=DTYPES[value["dtype"]])
    return {name: _put_together(item, tensors) for name, item in value["table"]}


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _keys(item)
    elif isinstance(value, dict):
        if "tensor" in value:
            yield value["tensor"]
        for _, item in value.get("table", ()):
            yield from _keys(item)
