"""The results of ``reliability.py`` taken together, and the figures in ``docs/reliability.md`` that come from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TITLES = {
    "kills": "killed at a random moment",
    "points": "killed before a change of files",
    "asked to stop": "asked to stop (SIGTERM, SIGINT, SIGHUP) at a random moment, once or twice",
    "full disk": "the disk fills at some checkpoint; then there is room again",
    "damaged checkpoint": "the newest checkpoint is damaged: a bit flipped, the end cut off",
    "damaged shard": "a shard is damaged: named, or by choice left out",
    "not finite": "NaN or infinity in some windows: named, or by choice left out, and killed",
    "leaping clock": "the clock leaps by decades whenever it is read; killed once",
    "two processes": "two processes on one output; then the first is killed",
    "lost rank": "a process under torchrun is killed, and started anew by torchrun",
    "lost of two": "one of two processes that share features is killed, and torchrun starts both anew",
}
SUMS = {"runs", "kills", "exact", "broken_files", "held", "failures", "checkpoints_on_request", "restarts", "seconds"}
LOST = "intervals_lost_at_most"


def added(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What runs came to, and those before them."""
    both = dict(now)
    for name in SUMS & before.keys() & now.keys():
        both[name] = before[name] + now[name]
    if "seconds" in both:
        both["seconds"] = round(both["seconds"], 1)
    lost = [part[LOST] for part in (before, now) if LOST in part]
    return both | ({LOST: max(lost)} if lost else {})


def rendered(page: str, results: Mapping[str, Any]) -> str:
    """A page in Markdown, with the tables of these results where it has a place for them."""

    def figures(match: re.Match[str]) -> str:
        head = "On {system} {machine}, Python {python}:".format(**results)
        body = {"killed": f"{head}\n\n{killed(results['parts'])}", "others": others(results["parts"])}[match[1]]
        return f"<!-- figures: {match[1]} -->\n\n{body}\n<!-- end -->"

    return re.sub(r"<!-- figures: (\w+) -->.*?<!-- end -->", figures, page, flags=re.DOTALL)


def killed(parts: Mapping[str, Any]) -> str:
    """What became of runs that were killed."""
    rows = [["", "runs", "kills", "resumed exactly", "broken files", "intervals lost at most"]]
    for name, part in parts.items():
        kind, _, verb = name.partition(" ")
        if kind in ("kills", "points"):
            counts = [str(part[key]) for key in ("runs", "kills", "exact", "broken_files")]
            rows.append([f"`{verb}`, {TITLES[kind]}", *counts, str(part.get("intervals_lost_at_most", ""))])
    return table(rows)


def others(parts: Mapping[str, Any]) -> str:
    """What became of runs to which something else happened."""
    rows = [["", "tries", "nothing lost"]]
    for name, part in parts.items():
        if "held" in part:
            said = part.get("left_out")
            rows.append([TITLES[name], str(part["runs"]), said or str(part["held"])])
    return table(rows)


def table(rows: list[list[str]]) -> str:
    """A table whose first row is its head, numbers to the right."""
    rule = ["---", *(["---:"] * (len(rows[0]) - 1))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])) + "\n"
