from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from monoscope.core import memory
from monoscope.core.errors import ConfigError


def test_what_a_process_holds_grows_with_it() -> None:
    before = memory.resident()
    x = torch.ones(50_000_000)
    grown = memory.resident() - before
    assert 150e6 < grown < 300e6
    assert x.sum() == len(x)
    assert before < memory.machine_memory()
    assert 0 <= memory.available() <= memory.machine_memory()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 GB, 6 of them free, without control groups."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000000 kB\nMemFree: 100 kB\nMemAvailable: 6000000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/user/run\n")
    (tmp_path / "cgroup/user/run").mkdir(parents=True)
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "proc")
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path / "cgroup")
    return tmp_path


def test_free_memory_is_what_the_system_says(machine: Path) -> None:
    assert memory.available() == 6_000_000 * 1024


@pytest.mark.parametrize("group", ["", "user", "user/run"])
def test_the_tightest_control_group_bounds_it(machine: Path, group: str) -> None:
    place = machine / "cgroup" / group
    (place / "memory.max").write_text("3000000000\n")
    (place / "memory.current").write_text("1200000000\n")
    (place / "memory.stat").write_text("anon 700000000\ninactive_file 400000000\n")
    assert memory.available() == 3_000_000_000 - 800_000_000
    assert memory.machine_memory() == 3_000_000_000
    (place / "memory.max").write_text("max\n")
    assert memory.available() == 6_000_000 * 1024


def test_control_groups_of_the_first_version(machine: Path) -> None:
    (machine / "cgroup/memory").mkdir()
    (machine / "cgroup/memory/memory.limit_in_bytes").write_text("2000000000\n")
    (machine / "cgroup/memory/memory.usage_in_bytes").write_text("500000000\n")
    (machine / "cgroup/memory/memory.stat").write_text("total_inactive_file 100000000\n")
    assert memory.available() == 1_600_000_000
    (machine / "cgroup/memory/memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")
    assert memory.available() == 6_000_000 * 1024


def needed(changes: Mapping[str, int]) -> float:
    """100 for each a, one for each b: 1050 as it is."""
    values = {"a": 10, "b": 50} | dict(changes)
    if values["b"] == 25:
        raise ConfigError("25 does not go together with anything")
    return values["a"] * 100 + values["b"]


@pytest.mark.parametrize(
    ("room", "said"),
    [
        (1010, "lower a to 5, or b to 6"),
        (1020, "lower a to 5, or b to 12"),
        (260, "lower a to 2"),
        (110, "lower a to 1 and b to 6"),
        (90, "no settings make it fit"),
    ],
)
def test_advice_is_what_fits(room: float, said: str) -> None:
    assert memory.advice(needed, {"a": (10, 1), "b": (50, 2)}, room).startswith(said)
