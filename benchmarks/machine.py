"""The machine a benchmark runs on, what else is running on it, and the file that holds all its results.

``benchmarks/results/MACHINE.json`` has a section for each benchmark and in it a row for each part, so that parts can be
measured one at a time, and again. Only the standard library is used here: a benchmark that starts others stays small.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
QUIET = 0.05  # of the machine: others' use of the processor up to which a measurement is called quiet

MEASURED = ("core", "dictionaries", "features", "harvest", "models", "ops", "parallel", "training")
"""Parts of monoscope whose speed is measured."""


def facts() -> dict[str, Any]:
    """Processor, cores, what of its vector units matters, and memory."""
    text = _read("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", text)
    flags = set(re.search(r"flags\s*: (.*)", text).group(1).split()) if "flags" in text else set()
    total = re.search(r"MemTotal:\s*(\d+)", _read("/proc/meminfo"))
    return {
        "processor": model.group(1).strip() if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "vector units": [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags],
        "memory_gb": round(int(total.group(1)) / 2**20) if total else None,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def results_file() -> Path:
    """Where the results of this machine are."""
    about = facts()
    name = re.sub(r"[^a-z0-9]+", "-", f"{about['processor']} {about['cores']} cores".lower()).strip("-")
    units = "amx" if "amx_bf16" in about["vector units"] else "avx512" if "avx512f" in about["vector units"] else ""
    return ROOT / "benchmarks" / "results" / "machines" / f"{name}{'-' + units if units else ''}.json"


def sources() -> str:
    """What identifies the sources that are measured: a hash of those git has of ``MEASURED``."""
    listing = subprocess.run(["git", "ls-tree", "HEAD:src/monoscope", *MEASURED], cwd=ROOT, capture_output=True)
    return hashlib.sha256(listing.stdout).hexdigest()[:12]


def results() -> dict[str, Any]:
    """What has been measured on this machine."""
    path = results_file()
    return json.loads(path.read_text()) if path.exists() else {"machine": facts()}


def record(section: str, part: str, row: dict[str, Any]) -> None:
    """Put a row in place of the one there was. One that is not ``complete`` yet is measured on."""
    everything = results()
    measured = {"measured": time.strftime("%Y-%m-%d %H:%M"), "sources": sources()}
    everything.setdefault(section, {})[part] = row | measured
    everything["machine"] = facts()
    path = results_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(everything, indent=1) + "\n")


def is_measured(section: str, part: str) -> bool:
    """Whether there is a row for a part, of these sources."""
    row = results().get(section, {}).get(part, {})
    return row.get("sources") == sources() and row.get("complete", True)


MORE = 75
"""Exit code of a benchmark that has parts left: call it again."""


class Parts:
    """The parts a command line asks for, one after another while the time it gives lasts.

    They are those it names, or all whose sources have changed since they were measured. With ``--seconds``, a part that
    would not be finished in time is left, and the process ends with code 75.
    """

    def __init__(self, section: str, names: list[str], description: str, typical: float) -> None:
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("parts", nargs="*", help="measured whether they are or not")
        parser.add_argument("--list", action="store_true", help="show the parts, and which are measured")
        parser.add_argument("--again", action="store_true", help="measure every part, measured or not")
        parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing that would take longer")
        options = parser.parse_args()
        if unknown := sorted(set(options.parts) - set(names)):
            parser.error(f"no part is called {', '.join(unknown)}; --list shows them")
        if options.list:
            for name in names:
                print("measured" if is_measured(section, name) else "        ", name)
        self.section, self.typical = section, typical
        self.names = options.parts or [name for name in names if options.again or not is_measured(section, name)]
        self.names = [] if options.list else self.names
        self.until, self.has_begun = time.monotonic() + options.seconds, False

    def __iter__(self) -> Iterator[str]:
        for name in self.names:
            self.begin(results().get(self.section, {}).get(name, {}).get("seconds", self.typical))
            yield name

    def begin(self, seconds: float) -> None:
        """End the process if something that takes this long would not be finished in time; the first always begins."""
        if self.has_begun and time.monotonic() + seconds > self.until:
            print("parts are left: call this again", flush=True)
            sys.exit(MORE)
        self.has_begun = True


class Usage:
    """Processor use of the machine and of some processes, since this was made or last asked."""

    def __init__(self, processes: Iterable[int] = ()) -> None:
        self.processes = [os.getpid(), *processes]
        self.before = self._now()

    def others(self) -> float | None:
        """Share of all cores that other processes took; None where the system does not say."""
        before, self.before = self.before, self._now()
        if before is None or self.before is None:
            return None
        total, busy, own = (after - earlier for after, earlier in zip(self.before, before, strict=True))
        return max(0.0, (busy - own) / max(total, 1))

    def _now(self) -> tuple[int, int, int] | None:
        line = _read("/proc/stat").split("\n")[0].split()[1:]
        if not line:
            return None
        ticks = [int(value) for value in line[:8]]
        own = 0
        for process in self.processes:
            after_name = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
            own += int(after_name[11]) + int(after_name[12]) if after_name else 0
        return sum(ticks), sum(ticks) - ticks[3] - ticks[4], own


def wait_for_quiet(seconds: float = 20) -> float | None:
    """Wait until others leave the machine alone, or the time is over; their share of it in the last look."""
    until = time.monotonic() + seconds
    while True:
        usage = Usage()
        time.sleep(1)
        share = usage.others()
        if share is None or share <= QUIET or time.monotonic() > until:
            return share


def middle(values: list[float]) -> float:
    """Median."""
    return quantile(values, 0.5)


def quantile(values: list[float], share: float) -> float:
    """The value that a share of the values is below, interpolated."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
