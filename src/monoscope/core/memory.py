"""Memory: what this process holds, what it may still take, and whether what it is about to do fits into that."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from monoscope.core.errors import ConfigError

CONTROL_GROUPS = Path("/sys/fs/cgroup")
PROCESS = Path("/proc")


def machine_memory() -> float:
    """Bytes of memory this process may use: the machine's, or less where a control group bounds it."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float(min([total, *(limit for limit, _ in _control_groups())]))


def resident() -> float:
    """Bytes that this process holds in memory."""
    try:
        return float(int((PROCESS / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    except OSError:  # no Linux: the most it ever held
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def available() -> float:
    """Bytes that this process may take beyond what it holds: what is free, and within its control group."""
    rooms: list[float] = [limit - used for limit, used in _control_groups()]
    try:
        lines = dict(line.split(":") for line in (PROCESS / "meminfo").read_text().splitlines())
        rooms.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        rooms.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") - resident())
    return max(0.0, float(min(rooms)))


def _control_groups() -> list[tuple[int, int]]:
    """Limit and use, in bytes, of the control groups that bound this process, without pages of files that can go."""
    try:
        own = [
            line.split(":", 2)[2] for line in (PROCESS / "self/cgroup").read_text().splitlines() if line[:3] == "0::"
        ]
    except OSError:
        own = []
    groups = {CONTROL_GROUPS}  # in a container, its own
    for name in own:
        path = CONTROL_GROUPS / name.strip("/")
        groups |= {path, *(parent for parent in path.parents if parent.is_relative_to(CONTROL_GROUPS))}
    found = []
    for group in groups:
        for limit, used, stat, cached in (
            (group / "memory.max", group / "memory.current", group / "memory.stat", "inactive_file"),
            (
                group / "memory/memory.limit_in_bytes",
                group / "memory/memory.usage_in_bytes",
                group / "memory/memory.stat",
                "total_inactive_file",
            ),
        ):
            bound = _number(limit)
            if bound is not None and bound < 2**60:  # the first version writes a huge number for none
                found.append((bound, max(0, (_number(used) or 0) - _in_table(stat, cached))))
    return found


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _in_table(path: Path, name: str) -> int:
    try:
        rows = (line.split() for line in path.read_text().splitlines())
        return next((int(row[1]) for row in rows if len(row) == 2 and row[0] == name), 0)
    except OSError:
        return 0


def advice(needed: Callable[[Mapping[str, int]], float], settings: Mapping[str, tuple[int, int]], room: float) -> str:
    """Which setting, lowered to what, makes the need fit into ``room`` bytes: a phrase.

    needed: bytes with some settings changed; a ConfigError means that they do not go together
    settings: the value of each, and the least that makes sense
    """
    alone = {}
    for name, (value, least) in settings.items():
        lower = value // 2
        while lower >= least and not _fits(needed, {name: lower}, room):
            lower //= 2
        if lower >= least:
            alone[name] = lower
    if alone:
        return "lower " + ", or ".join(f"{name} to {value:,}" for name, value in alone.items())
    together = {name: value for name, (value, _) in settings.items()}
    while any(together[name] > least for name, (_, least) in settings.items()):
        together = {name: max(least, together[name] // 2) for name, (_, least) in settings.items()}
        if _fits(needed, together, room):
            return "lower " + " and ".join(f"{name} to {value:,}" for name, value in together.items())
    return "no settings make it fit: it takes a machine with more memory"


def _fits(needed: Callable[[Mapping[str, int]], float], changes: Mapping[str, int], room: float) -> bool:
    try:
        return needed(changes) <= room
    except ConfigError:
        return False
