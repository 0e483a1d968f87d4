"""Whether monoscope ever loses a run: processes of the command line are killed, and worse, and must go on exactly.

    python benchmarks/reliability.py [--runs 50] [--times 5] [--seconds 600] [--seed 0] [--only PART ...] [--more]

With ``--more`` runs are added to those that are recorded, up to so many: any number of short pieces make a long one.

    kills     SIGKILL at random moments of train, harvest and analyze, one to three times a run
    points    SIGKILL right before a call that changes which files there are, as many calls of them
    and the cases of ``fault_cases``

Every run is resumed to its end and compared with one that nothing happened to: weights and other tensors bit for bit,
the log row for row. Needs Linux; what needs root, a mount of a small file system, is left out without it, and says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from fault_cases import CASES, EACH
from fault_runs import kills, points
from fault_verbs import VERBS, prepared
from reliability_page import added, rendered

RESULTS = Path(__file__).parent / "results" / "reliability.json"
PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
KNOWN = [*(f"{kind} {verb}" for kind in ("kills", "points") for verb in VERBS), *CASES]


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether monoscope ever loses a run.")
    parser.add_argument("--runs", type=int, default=50, help="runs that are killed, of each verb")
    parser.add_argument("--times", type=int, default=5, help="how often each other case is tried")
    parser.add_argument("--seconds", type=float, default=600, help="after which no more runs of a verb are begun")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help=f"parts to run: {', '.join(KNOWN)}", default=KNOWN, metavar="PART")
    parser.add_argument("--more", action="store_true", help="add to what is recorded, up to --runs and --times")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if absent := sorted(set(given.only) - set(KNOWN)):
        parser.error(f"no part {absent[0]!r}; known: {', '.join(KNOWN)}")
    found = json.loads(given.out.read_text())["parts"] if given.out.is_file() else {}
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        prepared(work)
        for part in given.only:
            kind, _, verb = part.partition(" ")
            before = found.get(part, {}) if given.more else {}
            done, wanted = before.get("runs", 0), given.times if part in CASES else given.runs
            if done >= wanted * EACH.get(part, 1):
                continue
            began = time.monotonic()
            if part in CASES:
                rng = np.random.default_rng([given.seed, *part.encode(), done])
                now = CASES[part](work, wanted - done // EACH.get(part, 1), rng)
            elif kind == "kills":
                rng = np.random.default_rng([given.seed, *part.encode(), done])
                now = kills(VERBS[verb], work, wanted - done, rng, began + given.seconds)
            else:
                rng = np.random.default_rng([given.seed, *part.encode()])
                now = points(VERBS[verb], work, range(done, wanted), rng, began + given.seconds)
            now |= {"seed": given.seed, "seconds": round(time.monotonic() - began, 1)}
            found[part] = added(before, now)
            print(part, {k: v for k, v in found[part].items() if k != "failures"}, file=sys.stderr, flush=True)
            _save(given.out, found)
    if any(part.get("failures") for part in found.values()):
        sys.exit(1)


def _save(out: Path, parts: dict[str, Any]) -> None:
    machine = {"machine": platform.machine(), "system": platform.system(), "processors": os.cpu_count()}
    out.parent.mkdir(parents=True, exist_ok=True)
    ordered = {name: parts[name] for name in KNOWN if name in parts}
    results = {**machine, "python": platform.python_version(), "parts": ordered}
    out.write_text(json.dumps(results, indent=1) + "\n")
    if out == RESULTS:
        PAGE.write_text(rendered(PAGE.read_text(), results))


if __name__ == "__main__":
    main()
