"""The mesh of the processes that ``torchrun`` started: ``data x features``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from monoscope.core.errors import ConfigError, ElsewhereError, UserError
from monoscope.core.mesh import Axis, Mesh
from monoscope.core.ranks import local_rank_and_ranks, rank_and_ranks
from monoscope.parallel.joining import fresh_store

NAMES = ("data", "features")


@contextmanager
def meshed(features: int = 1, device: torch.device | str = "cpu") -> Iterator[Mesh]:
    """The mesh of all processes, ``features`` of which share a dictionary's features; the others share the data.

    Processes on GPUs talk through NCCL, all others through gloo. A process that was started alone is a mesh of its own.
    Raises ConfigError where ``features`` does not divide the processes.
    """
    _, ranks = rank_and_ranks()
    if ranks % features:
        raise ConfigError(
            f"parallel.features is {features}, which does not divide {ranks} process{'es' * (ranks > 1)}; start "
            f"{features * max(1, round(ranks / features))} with torchrun, or choose another number"
        )
    if ranks == 1:
        yield Mesh()
        return
    kind = torch.device(device).type
    is_ours = not dist.is_initialized()
    if is_ours:
        if kind == "cuda":
            _take(torch.device(device))
        store, rank, ranks = fresh_store()
        dist.init_process_group("nccl" if kind == "cuda" else "gloo", store=store, rank=rank, world_size=ranks)
    try:
        yield mesh_of(init_device_mesh(kind, (ranks // features, features), mesh_dim_names=NAMES))
    except KeyboardInterrupt:  # which all come to after the same step
        _part(is_ours)
        raise
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise ElsewhereError(f"a process of this run is gone: {str(error).splitlines()[0]}") from error
        raise
    _part(is_ours)  # after an error others may never come to say goodbye


def _part(is_ours: bool) -> None:
    if is_ours and dist.is_initialized():
        dist.destroy_process_group()


def _take(device: torch.device) -> None:
    """Make a GPU the one of this process, where NCCL talks. Raises ConfigError where it is meant for all of them."""
    number, processes = local_rank_and_ranks()
    if processes > 1 and torch.cuda.device_count() > 1 and device.index != number:
        raise ConfigError(
            f"device: {str(device)!r} is one GPU, and {processes} processes on this machine that train together need "
            "one each; set device = 'auto'"
        )
    torch.cuda.set_device(device)


def mesh_of(devices: DeviceMesh) -> Mesh:
    """A mesh of PyTorch's with axes ``data`` and ``features``, as one of its processes sees it."""
    kind = devices.device_type
    device = f"cuda:{torch.cuda.current_device()}" if kind == "cuda" else kind

    def axis(name: str) -> Axis:
        size = devices[name].size()
        group = devices.get_group(name) if size > 1 else None
        return Axis(devices.get_local_rank(name), size, group, device)

    every = Axis(dist.get_rank(), dist.get_world_size(), dist.group.WORLD, device)
    return Mesh(axis("data"), axis("features"), every, devices)


def share(mesh: Mesh, value: Any) -> Any:
    """The first process's value, on all: what JSON can hold."""
    if mesh.every.group is None:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=mesh.every.group, device=torch.device(mesh.every.device))
    return box[0]


def collect(mesh: Mesh, value: Any) -> list[Any]:
    """The values of all processes, in order, on all."""
    if mesh.every.group is None:
        return [value]
    values: list[Any] = [None] * mesh.every.size
    dist.all_gather_object(values, value, group=mesh.every.group)
    return values


def wait(mesh: Mesh) -> None:
    """Until every process is here."""
    if mesh.every.group is not None:
        mesh.every.counted(1)


@contextmanager
def together(mesh: Mesh) -> Iterator[None]:
    """Ends on all processes alike: an error of any of them ends the block on all.

    The first that failed raises its error, the others ElsewhereError, so that one of them says what is wrong.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    none = mesh.every.size
    first = mesh.every.counted(none if error is None else mesh.every.number, "min")
    if error is not None and first == mesh.every.number:
        raise error
    if first < none:
        raise ElsewhereError(f"process {first} failed, and says why") from error


@contextmanager
def alike(mesh: Mesh) -> Iterator[None]:
    """Of a user's error that all processes come to, the first alone says what is wrong."""
    try:
        yield
    except UserError as error:
        if mesh.is_first:
            raise
        raise ElsewhereError("process 0 failed alike, and says why") from error
