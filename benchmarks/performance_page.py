"""``docs/reference/performance.md`` and its charts, and the table of the README, from ``benchmarks/results/``.

    python benchmarks/performance_page.py

Every number on the page is a row of a results file, and a test holds the page to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from bench_growth import SIZES
from bench_peers import JOBS
from charts import bars, lines
from machine import QUIET, ROOT, middle
from performance_tables import (
    NAMES,
    OURS,
    SHORT,
    Row,
    analysis,
    bf16,
    grid,
    growth_table,
    harvest,
    in_order,
    interface,
    peer_name,
    peer_table,
    star,
)
from turns import ALLOCATORS

PAGE = ROOT / "docs" / "reference" / "performance.md"
CHARTS = PAGE.with_suffix("")
README = ROOT / "README.md"
INTERFACE = ROOT / "benchmarks" / "results" / "bench_interface.json"
BEGIN, END = "<!-- speed: written by benchmarks/performance_page.py -->", "<!-- /speed -->"
DATA = {
    "minilm": "MiniLM, residual stream after block 3",
    "bundled": "the bundled model, residual stream after block 2",
}
SETTINGS = {"default": "the allocator as it is", "tuned": "glibc told to keep and to enlarge its pages"}
ABOUT = """# Performance

What `make bench` measures: monoscope against the libraries people use today, and against itself as sizes grow. Tables
and charts are written from [the results of each machine](../../benchmarks/results) by
`benchmarks/performance_page.py`.

How the comparison is made ([`bench_peers.py`](../../benchmarks/bench_peers.py)):

- **The same job.** A TopK autoencoder, fp32, on the same 500k activations of a language model in the same order, in
  batches of 4,096 tokens; then encoding alone; then FVU and dead features on 49k activations of other documents, by one
  piece of code ([`score.py`](../../benchmarks/peers/score.py)), in the units of the language model. The text is windows
  drawn from all training files of Python's standard library; the other documents are its held-out files.
- **By each library's own training loop,** in an environment of its own, with its own defaults for all that the job does
  not say. What is timed is a step of that loop: from having a batch to asking for the next. Two things could not be so.
  eai-sparsify trains on no stored activations: the statements of its trainer for one step are replayed around its own
  coder and optimizer. Where a default warm-up (1,000 steps and more) would outlast the job's 122 steps, there is none.
- **In turns.** The library and monoscope, pure and compiled, are alive at the same time and take four steps each, over
  and over. A ratio is that of the medians of two turns beside each other; the tables give the median over all turns of
  two runs, and in parentheses the range that holds the middle 80 %. Tokens per second drift from run to run with the
  machine; ratios do so far less.
- **With everything on:** monoscope clips gradients, counts dead features, holds decoder rows at length one, logs and
  checkpoints, as it does for anyone. *Compiled* is what it does wherever there is a C++ compiler; *pure PyTorch* is
  what it does where there is none. Features are selected in the narrow precision that is fastest
  (`encode_dtype = "auto"`: int8, where the processor multiplies it); the values of those
  selected are computed in fp32 all the same, and the FVU is that of dictionaries trained and read in this way.
- **Memory** is the most the whole process had resident while it trained, Python and PyTorch included.
- **What else ran:** the share of the machine that other processes took is recorded with every row. A row taken while
  that was more than {quiet:.0%} bears a star.

Speed at equal quality is what counts, and quality at 500k tokens is mostly a matter of the learning rate: the FVU
column says where each library's defaults lead in this time, not what it can reach.
"""


def page(machines: Sequence[Row], seen: Row | None = None) -> str:
    """The whole page, in Markdown. ``seen``: what was measured of the web interface."""
    parts = [ABOUT.format(quiet=QUIET)]
    for number, results in enumerate(machines):
        parts += [f"## {title(results)}\n\n{hardware(results)}", *training(results, number), *growth(results, number)]
        parts += [part for part in (harvest(results), bf16(results), analysis(results)) if part]
    if seen is not None:
        parts.append(interface(seen))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def title(results: Row) -> str:
    """A machine in a few words."""
    machine = results["machine"]
    return f"{machine['processor']}, {machine['cores']} cores"


def hardware(results: Row) -> str:
    """A machine in a sentence."""
    machine = results["machine"]
    units = ", ".join(machine["vector units"]) or "none of those looked for"
    days = sorted({row["measured"][:10] for row in every_row(results)})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"Vector units: {units}. {machine['memory_gb']} GB of memory. {machine['system']}. Measured {when}."


def training(results: Row, number: int) -> Iterable[str]:
    """The comparison with other libraries: for each data set and allocator, a table."""
    peers = results.get("peers", {})
    for data in JOBS:
        rows = {
            at: [row for row in peers.values() if (row["data"], row["allocator"]) == (data, at)] for at in ALLOCATORS
        }
        if not any(rows.values()):
            continue
        job = JOBS[data]
        yield (
            f"### Training and encoding: {DATA[data]}\n\nd {job['d']}, {job['features']:,} features, k {job['k']}, "
            "4,096 tokens a batch."
        )
        if rows["default"]:
            yield f"![Tokens per second while training]({CHARTS.name}/training-{data}-{number}.svg)"
        for at, found in rows.items():
            if found:
                yield f"With {SETTINGS[at]}:\n\n{peer_table(found)}"
                if at == "tuned":
                    settings = " ".join(f"{name}={value}" for name, value in ALLOCATORS[at].items())
                    yield f"The second setting is `{settings}`, for every side."


def growth(results: Row, number: int) -> Iterable[str]:
    """Speed against each size."""
    rows = results.get("growth", {})
    if not rows:
        return
    yield (
        "### Growth\n\nEach size is trained in turns with the reference job (d 384, 6,144 features, k 32, 4,096 tokens "
        "a batch), and its speed given as a multiple of that job's, which is measured beside it. *By work* multiplies "
        "that by how many times more features there are: 1 is exactly proportional, more is better. These are steps at "
        "the beginning of a long run, when no feature counts as dead: what AuxK takes, up to a fifth of the short "
        "jobs above, is not in them."
    )
    for axis in SIZES:
        found = sorted((row for row in rows.values() if row["axis"] == axis), key=lambda row: row["size"])
        if found:
            yield (
                f"![Speed against {axis}]({CHARTS.name}/growth-{axis}-{number}.svg)"
                + "\n\n"
                + growth_table(axis, found)
            )


def charts(machines: Sequence[Row]) -> dict[str, str]:
    """The charts, by file name."""
    out = {}
    for number, results in enumerate(machines):
        for data in JOBS:
            rows = [
                row
                for row in in_order(results.get("peers", {}).values())
                if (row["data"], row["allocator"]) == (data, "default")
            ]
            if rows:
                out[f"training-{data}-{number}.svg"] = bars(f"Training, tokens/s: {DATA[data]}", bar_rows(rows))
        for axis in SIZES:
            found = [row for row in results.get("growth", {}).values() if row["axis"] == axis]
            if found:
                out[f"growth-{axis}-{number}.svg"] = growth_chart(axis, sorted(found, key=lambda row: row["size"]))
    return out


def bar_rows(rows: Sequence[Row]) -> list[tuple[str, float, bool]]:
    """Libraries and monoscope, the slowest first."""
    found = [(NAMES[row["peer"]], float(row["sides"][row["peer"]]["train"]["tokens_per_s"]), False) for row in rows]
    for name, label in OURS.items():
        own = [row["sides"][name]["train"]["tokens_per_s"] for row in rows if name in row["sides"]]
        if own:
            found.append((label, middle(own), True))
    return sorted(found, key=lambda row: row[1])


def growth_chart(axis: str, rows: Sequence[Row]) -> str:
    """Speed as a multiple of the reference job's, against a size."""
    base = rows[0]["reference"][axis]
    sizes = sorted([base, *(row["size"] for row in rows)])
    expected = {"features": -1, "d": -1}.get(axis, 0)
    series = {"proportional" if expected else "constant": [(size, (size / base) ** expected) for size in sizes]}
    for name, label in SHORT.items():
        points = [(row["size"], row["sides"][name]["ratio"]["median"]) for row in rows if name in row["sides"]]
        if points:
            series[label] = sorted([(base, 1.0), *points])
    return lines(f"Speed against {axis}, as a multiple of the reference job's", axis, "x", series)


def readme(machines: Sequence[Row]) -> str:
    """The README's table: rows of the reference job on the first machine."""
    if not machines:
        return ""
    rows = [
        row
        for row in in_order(machines[0].get("peers", {}).values())
        if (row["data"], row["allocator"]) == ("minilm", "default")
    ]
    sides = [name for name in OURS if rows and all(name in row["sides"] for row in rows)]
    heads = [OURS[name].removeprefix("monoscope, ") for name in sides]
    table = [["against", *(f"trains, {head}" for head in heads), *(f"encodes, {head}" for head in heads)]]
    for row in rows:
        ratios = [f"{row['ratios'][name][phase]['median']:.1f} x" for phase in ("train", "encode") for name in sides]
        table.append([peer_name(row) + star(row), *ratios])
    return grid(table) + f"\n\n{title(machines[0])}; [how, and everything else](docs/reference/performance.md)."


def every_row(results: Row) -> list[Row]:
    """The rows of all sections."""
    return [row for name, section in results.items() if name != "machine" for row in section.values()]


def saved() -> list[Row]:
    """The results of every machine."""
    return [
        json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks" / "results" / "machines").glob("*.json"))
    ]


def saved_interface() -> Row | None:
    """What was measured of the web interface, if it was."""
    return json.loads(INTERFACE.read_text()) if INTERFACE.exists() else None


def with_table(text: str, table: str) -> str:
    """The README with its table in place."""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"the README has no place for its table: {BEGIN} ... {END}"
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main() -> None:
    """Write the page, its charts and the README's table."""
    machines = saved()
    PAGE.write_text(page(machines, saved_interface()))
    CHARTS.mkdir(exist_ok=True)
    drawn = charts(machines)
    for path in CHARTS.glob("*.svg"):
        if path.name not in drawn:
            path.unlink()
    for name, svg in drawn.items():
        (CHARTS / name).write_text(svg)
    README.write_text(with_table(README.read_text(), readme(machines)))


if __name__ == "__main__":
    main()
