"""The tables of the page of measured speed: each of rows of one section of the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench_peers import PEERS
from machine import QUIET, middle
from turns import COMPILED, PURE

SHORT = {PURE: "pure PyTorch", COMPILED: "compiled"}
OURS = {name: f"monoscope, {short}" for name, short in SHORT.items()}
NAMES = {
    "eai-sparsify": "eai-sparsify",
    "eai-sparsify-adam": "eai-sparsify, Adam",
    "dictionary-learning": "dictionary-learning",
    "overcomplete": "overcomplete",
    "sae-lens": "SAELens",
    "llamascopium": "llamascopium",
}

Row = Mapping[str, Any]


def peer_table(rows: Sequence[Row]) -> str:
    """Libraries, one a row, and what monoscope did beside them."""
    sides = [name for name in OURS if all(name in row["sides"] for row in rows)]
    faster = [f"{SHORT[name]}: x faster" for name in sides]
    judged = ["FVU", "dead"] if "fvu" in rows[0]["sides"][rows[0]["peer"]] else []
    table = [["library", "tokens/s", *faster, "encode, tokens/s", *faster, "memory, MB", *judged]]
    for row in in_order(rows):
        side = row["sides"][row["peer"]]
        cells = [peer_name(row) + star(row)]
        for phase in ("train", "encode"):
            cells += [speed(side, phase), *(times(row["ratios"][name][phase]) for name in sides)]
        table.append([*cells, *quality([side])])
    for name in sides:
        own = [row["sides"][name] for row in rows]
        empty = [""] * len(sides)
        speeds = [between([side[phase]["tokens_per_s"] for side in own]) for phase in ("train", "encode")]
        table.append([f"**{OURS[name]}**", speeds[0], *empty, speeds[1], *empty, *quality(own)])
    return grid(table)


def growth_table(axis: str, rows: Sequence[Row]) -> str:
    """Sizes along one axis."""
    sides = [name for name in OURS if all(name in row["sides"] for row in rows)]
    work = ["by work"] if axis == "features" else []
    heads = [f"{SHORT[name]}: {head}" for name in sides for head in ("tokens/s", "x", *work)]
    table = [[axis, *heads, *(f"{SHORT[name]}: memory, MB" for name in sides)]]
    for row in rows:
        cells = [f"{row['size']:,}{star(row)}"]
        for name in sides:
            side = row["sides"][name]
            cells += [speed(side["here"], "train"), times(side["ratio"])]
            cells += [f"{side['ratio_by_work']:.2f}"] if work else []
        table.append([*cells, *(f"{row['sides'][name]['here']['peak_mb']:,}" for name in sides)])
    return grid(table)


def harvest(results: Row) -> str:
    """Harvest against the bare loop."""
    rows = results.get("harvest", {})
    if not rows:
        return ""
    ways = ["`live`", "`shuffle(live)`, as training reads", "`harvest(live)`, to disk"]
    table = [["model", "precision", "bare loop, tokens/s", *ways]]
    for row in rows.values():
        ways = row["ways"]
        table.append(
            [f"{row['model']}, {row['site']}{star(row)}", row["dtype"], f"{ways['bare loop']['tokens_per_s']:,}"]
            + [
                f"{ways[way]['ratio']:.2f} x ({' to '.join(f'{v:.2f}' for v in ways[way]['spread'])})"
                for way in list(ways)[1:]
            ]
        )
    return (
        "### Harvest\n\nThe bare loop is the least that any harvest can do: a forward pass under `no_grad`, and a hook "
        "that keeps the site's tensor and stops the pass there. `live` also resolves sites, marks the tokens that "
        "count, counts what it leaves out, and checks that everything is finite.\n\n" + grid(table)
    )


def bf16(results: Row) -> str:
    """What features survive bf16."""
    rows = [row for row in results.get("harvest", {}).values() if "survival" in row]
    if not rows:
        return ""
    table = [
        ["model", "active entries kept", "by activation", "error of activations", "FVU from fp32", "FVU from bf16"]
    ]
    for row in rows:
        found = row["survival"]
        table.append(
            [f"{row['model']}, {row['site']}", f"{found['kept']:.1%}", f"{found['kept_weight']:.1%}"]
            + [f"{found[name]:.4f}" for name in ("error", "fvu", "fvu_bf16")]
        )
    return (
        "### Features in bf16\n\nA dictionary trained on fp32 activations reads text of other documents as the model "
        "computes it in fp32 and in bf16. *Kept*: (token, feature) entries active in fp32 that are active in bf16 too; "
        "with TopK, what goes is replaced by a feature that was just below the k-th. Error and FVU are shares of the "
        "variance of the fp32 activations.\n\n" + grid(table)
    )


def analysis(results: Row) -> str:
    """Analyze against harvest and encode."""
    rows = results.get("analyze", {})
    if not rows:
        return ""
    table = [["job", "features", "tokens", "tokens/s", "x harvest and encode alone", "memory, MB", "bundle, MB"]]
    for name, row in rows.items():
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        sizes = [f"{row[key]:,}" for key in ("features", "tokens", "tokens_per_s", "peak_mb", "bundle_mb")]
        table.append([name + star(row), *sizes[:3], ratio, *sizes[3:]])
    return (
        "### Analyze\n\n`analyze` reads, encodes and describes every feature in one pass; beside it, reading and "
        "encoding alone. `synthetic` draws activations that never repeat, the hardest case for what is kept of "
        "contexts.\n\n" + grid(table)
    )


def interface(results: Row) -> str:
    """Interactions of the web interface, with what they are to take at most."""
    table = [["interaction", "target, ms", "p50, ms", "p95, ms", "n"]]
    for row in results["rows"]:
        mark = " *" if (row["others"] or 0) > QUIET else ""
        p95 = f"{row['p95_ms']:.1f}" if row["p95_ms"] <= row["target_ms"] else f"**{row['p95_ms']:.1f}**"
        table.append([row["interaction"] + mark, f"{row['target_ms']:,}", f"{row['p50_ms']:.1f}", p95, str(row["n"])])
    machine, sizes, days = (
        results["machine"],
        results["sizes"],
        sorted({row["measured"][:10] for row in results["rows"]}),
    )
    return (
        f"## The web interface on {results['features']:,} features\n\nFrom the event in the page until the frame that "
        "shows its result has been painted, server and browser on the same machine "
        f"({machine['processor']}, {machine['cores']} cores; {results['browser']}; measured {' and '.join(days)}). "
        "[`bench_interface.py`](../../benchmarks/bench_interface.py) says what each row is. A target is for the 95th "
        "percentile, in bold where it is missed. A time in which the page waits, for the end of typing or the answer "
        "before, contains that.\n\n" + grid(table) + "\n\n"
        f"Scripts that the first page waits for: {sizes['initial_script_kb_gzip']} kB compressed; those of a feature's "
        f"page: {sizes['script_of_a_feature_kb_gzip']} kB. What a feature's page reads, contexts included: "
        f"{sizes['feature_kb_plain_p50']} kB, at p95 {sizes['feature_kb_plain_p95']} kB. Requests to any other host: "
        f"{len(results['requests']['elsewhere'])} of {sum(results['requests']['n'].values()):,}."
    )


def peer_name(row: Row) -> str:
    """A library with its version."""
    version = row["requirements"][0].partition("==")[2]
    name, comma, variant = NAMES[row["peer"]].partition(",")
    return f"{name} {version}{comma}{variant}"


def in_order(rows: Iterable[Row]) -> list[Row]:
    """In the order in which libraries are listed."""
    return sorted(rows, key=lambda row: list(PEERS).index(row["peer"]))


def star(row: Row) -> str:
    """A mark for what was not measured on a quiet machine."""
    shares = [each.get("mean") or 0 for each in row["others"]]
    return " *" if max(shares, default=0) > QUIET else ""


def speed(side: Row, phase: str) -> str:
    """Median tokens per second."""
    return f"{side[phase]['tokens_per_s']:,}"


def times(ratio: Row) -> str:
    """A ratio with its spread."""
    low, high = ratio["spread"]
    return f"{ratio['median']:#.3g} ({low:#.3g} to {high:#.3g})"


def quality(sides: Sequence[Row]) -> list[str]:
    """Memory, and FVU and dead share where they were judged: of several runs, the middle one."""
    memory = f"{middle([side['peak_mb'] for side in sides]):,.0f}"
    if "fvu" not in sides[0]:
        return [memory]
    return [memory, f"{middle([side['fvu'] for side in sides]):.3f}", f"{middle([side['dead'] for side in sides]):.1%}"]


def between(values: Sequence[float]) -> str:
    """A range, or the one value there is."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def grid(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, numbers to the right."""
    head, *body = rows
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))
