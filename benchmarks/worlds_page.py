"""``docs/reference/worlds.md`` from the results of ``bench_worlds.py``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import spearmanr
from worlds_notes import AFTER, BEFORE, EXPECTED

from monoscope.evals.worlds import WORLDS
from monoscope.evals.worlds.claims import PRIMARY, claims
from monoscope.evals.worlds.methods import BASELINE, METHODS

Row = Mapping[str, Any]

COLUMNS = {
    "l0": "L0",
    "ev": "EV",
    "mcc": "MCC",
    "mcc_adj": "MCC, adjusted",
    "recovery_90": "recovery@0.9",
    "f1": "F1",
    "f1_hungarian": "F1, one to one",
    "uniqueness_adj": "uniqueness, adjusted",
    "dead": "dead",
}
OWN_COLUMNS = {  # what a world is for, beside what all are scored by
    "W2": {"hedging": "hedging"},
    "W3": {"absorption": "absorption", "leak": "leak"},
    "W4": {"mcc_signed": "MCC, signed"},
    "W5": {"hedging_positive": "hedging, positive", "hedging_negative": "hedging, negative"},
    "W5, wide enough": {"hedging_positive": "hedging, positive", "hedging_negative": "hedging, negative"},
}
SHORT = {"mcc_adj": "MCC", "f1_hungarian": "F1", "ev": "EV"}
FLOORS = ("frozen decoder", "random")
MARK = {"measured": "", "interpolated": " *", "off": " †"}


def page(results: Mapping[str, Any]) -> str:
    """The whole page, in Markdown."""
    rows, budget = results["rows"], results["budget"]
    parts = [BEFORE.format(**budget, seeds=len(results["seeds"])), worlds_table(rows)]
    for name, world in WORLDS.items():
        if "methods" in rows.get(name, {}):
            head = f"## {name}: {world.shows}\n\nF = {world.n_features}, compared at L0 {world.l0:g}.\n"
            parts.append(head + "\n" + world_table(name, rows[name]))
    parts += [expectations(rows), calibration(rows), stability(rows), AFTER]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def worlds_table(rows: Mapping[str, Any]) -> str:
    """What the worlds are made of."""
    lines = [["world", "n, d", "true L0", "F", "compared at", "what it is for"]]
    for name, world in WORLDS.items():
        built = world.build(0)
        truth = rows.get(name, {}).get("bounds", {}).get("true support")
        l0 = "" if truth is None else f"{mean(truth, 'l0'):.2f}"
        size = f"{built.n_features}, {built.d}"
        lines.append([name, size, l0, str(world.n_features), f"{world.l0:g}", world.shows])
    return table(lines)


def world_table(name: str, found: Mapping[str, Any]) -> str:
    """Ceilings, methods and floors of one world."""
    columns = COLUMNS | OWN_COLUMNS.get(name, {})
    methods, limits = found["methods"], found.get("bounds", {})
    lines = [["", *columns.values(), "PW-MCC", f"against {BASELINE}"]]
    lines += [line(f"*{label}*", row, columns) for label, row in limits.items() if label not in FLOORS]
    shown = [label for label in METHODS if label in methods and label not in FLOORS]
    for label in shown:
        lines.append(line(label, methods[label], columns, against(methods, label)))
    for label in FLOORS:
        if (row := methods.get(label) or limits.get(label)) is not None:
            lines.append(line(f"*{label}*", row, columns))
    return table(lines) + "\n\n" + gaps({label: methods[label] for label in shown}, limits)


def gaps(methods: Mapping[str, Row], limits: Mapping[str, Row]) -> str:
    """What encoders lose to pursuit with the true directions, and what the best method loses in all."""
    if "pursuit at the true L0" not in limits or not methods:
        return ""
    said = []
    for metric, name in (("ev", "EV"), ("f1_hungarian", "F1")):
        top = mean(limits["pursuit at the true L0"], metric)
        best = max(methods, key=lambda label: mean(methods[label], metric))
        linear = top - mean(limits["linear encoder"], metric)
        said.append(
            f"{name}: {linear:.3f} of it is lost by a linear encoder that knows the directions, "
            f"{top - mean(methods[best], metric):.3f} by the best method here ({best})"
        )
    return "Below pursuit at the true L0, " + "; ".join(said) + "."


def line(label: str, row: Row, columns: Mapping[str, str], verdict: str = "") -> list[str]:
    """One row of a world's table."""
    worst = max(row["matched"], key=list(MARK).index)
    stability = "" if row.get("pw_mcc") is None else f"{row['pw_mcc']:.3f}"
    cells = [cell(row["metrics"].get(metric), 2 if metric == "l0" else 3) for metric in columns]
    return [label + MARK[worst], *cells, stability, verdict]


def cell(values: Sequence[float | None] | None, digits: int) -> str:
    """Mean and standard deviation over seeds."""
    known = [value for value in values or () if value is not None]
    if not known:
        return ""
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.{digits}f}{spread}"


def against(methods: Mapping[str, Row], label: str, other: str = BASELINE) -> str:
    """Which primary metrics a method may claim over another one."""
    if label == other or other not in methods:
        return ""
    if "off" in methods[label]["matched"] or "off" in methods[other]["matched"]:
        return "at another L0"
    ours, theirs = (methods[name]["metrics"] for name in (label, other))
    won = claims({m: ours[m] for m in PRIMARY}, {m: theirs[m] for m in PRIMARY})
    said = [
        f"{word} {', '.join(SHORT[m] for m, sign in won.items() if sign == wanted)}"
        for wanted, word in ((1, "wins"), (-1, "loses"))
        if wanted in won.values()
    ]
    return "; ".join(said) or "even"


def expectations(rows: Mapping[str, Any]) -> str:
    """What the literature lets one expect, and what was found."""
    lines = [["expected", "found", "as expected"]]
    for said, world, metric, one, relation, other in EXPECTED:
        methods = rows.get(world, {}).get("methods", {})
        if one in methods and other in methods:
            a, b = (mean(methods[label], metric) for label in (one, other))
            is_so = {"<": a < b, ">": a > b, "~": abs(a - b) < CLOSE}[relation]
            name = COLUMNS.get(metric) or OWN_COLUMNS[world][metric]
            found = f"{name} on {world}: {one} {cell(methods[one]['metrics'][metric], 3)}, {other} "
            lines.append([said, found + cell(methods[other]["metrics"][metric], 3), "yes" if is_so else "no"])
    return "" if len(lines) == 1 else "## What was expected\n\n" + table(lines)


CLOSE = 0.03


def calibration(rows: Mapping[str, Any]) -> str:
    """Where F1 peaks."""
    found = rows.get("W1", {}).get("calibration", {})
    if not found:
        return ""
    lines = [
        ["on W1, one seed", *(f"{share:g} x" for share in (0.5, 0.8, 1.0, 1.25, 2.0)), "L0 where F1 peaks / true L0"]
    ]
    for label, curve in found.items():
        lines.append([label, *(f"{value:.3f}" for value in curve["f1"]), f"{curve['peak']:.2f}"])
    return "## L0 calibration\n\nF1 at multiples of the true L0.\n\n" + table(lines)


def stability(rows: Mapping[str, Any]) -> str:
    """Whether PW-MCC, which needs no truth, ranks methods as MCC does."""
    rows_of = [row for found in rows.values() for row in found.get("methods", {}).values() if row["pw_mcc"] is not None]
    if len(rows_of) < 3:
        return ""
    rank, _ = spearmanr([row["pw_mcc"] for row in rows_of], [mean(row, "mcc") for row in rows_of])
    return (
        "## PW-MCC\n\nHow alike the dictionaries of two seeds are can be known without the truth. Over all "
        f"{len(rows_of)} rows of methods above, its rank correlation with MCC is {rank:.2f}."
    )


def mean(row: Row, metric: str) -> float:
    """Mean of a metric over seeds."""
    return statistics.fmean(value for value in row["metrics"][metric] if value is not None)


def table(lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    head, *body = lines
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body))
