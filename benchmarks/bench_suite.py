"""The suite of ``examples/suite.toml`` on the bundled model: trained, measured, and asked what Llama Scope asks.

    python -m monoscope.demo.finetune --out runs/finetuned      # once: the finetuned copy
    python benchmarks/bench_suite.py [--set training.tokens=200000] [--work runs/suite] [--write]

Training and evaluation go on where they stopped. The report is made twice: on held-out code, and on the kind of prose
that the copy was tuned on (topics held out from it). ``--write`` writes ``docs/reference/suite.md`` and the numbers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from monoscope.cli.configs import ReportConfig, TrainConfig
from monoscope.cli.report import report
from monoscope.cli.suite import train_and_measure
from monoscope.core.io import write_json, write_text
from monoscope.demo.finetune import topics
from monoscope.evals.suite import COLUMNS, TABLE, markdown

ROOT = Path(__file__).parents[1]
KINDS = ("resid_post", "attn_out", "mlp_out", "mlp")


def main() -> None:
    """Train, measure, report; then the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "suite")
    parser.add_argument("--tuned", type=Path, default=ROOT / "runs" / "finetuned" / "model")
    parser.add_argument("--set", action="append", default=[], help="a key of the suite, as training.tokens=200000")
    parser.add_argument("--report-tokens", type=int, default=10_000)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    settings = TrainConfig.load(ROOT / "examples" / "suite.toml", args.set)
    train_and_measure(settings, args.work, resume=True, force=False, as_json=True)
    prose = args.work / "prose.txt"
    write_text(prose, "\n\n".join(topics(held_out=True)))
    texts = {
        "code": {"kind": "standard_library", "split": "held_out"},
        "prose": {"kind": "files", "paths": [str(prose)]},
    }
    for name, text in texts.items():
        if not (args.work / f"report.{name}").is_dir():
            asked = {"suite": str(args.work), "tuned": str(args.tuned), "text": text, "text_tokens": args.report_tokens}
            report(ReportConfig.from_dict(asked), args.work / f"report.{name}", force=False, as_json=True)
    reports = {name: json.loads((args.work / f"report.{name}" / "report.json").read_text()) for name in texts}
    table = json.loads((args.work / TABLE).read_text())["dictionaries"]
    numbers = rounded({"training": settings.training.to_dict(), "suite": table, "reports": reports})
    text = page(settings, table, reports, args.report_tokens)
    if args.write:
        write_json(ROOT / "benchmarks" / "results" / "bench_suite.json", numbers)
        write_text(ROOT / "docs" / "reference" / "suite.md", text)
    else:
        print(text)


def rounded(value: Any) -> Any:
    """Numbers with four digits, and no paths of the machine they were measured on."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items() if key != "tuned_name"}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def page(settings: TrainConfig, table: dict[str, Any], reports: dict[str, Any], report_tokens: int) -> str:
    """What the suite gives, in Markdown."""
    assert settings.suite is not None, "the configuration is of a suite"
    context = settings.context
    parts = [
        "# A suite of the bundled model\n",
        f"`monoscope train examples/suite.toml`, with {settings.training.tokens:,} tokens for each of "
        f"{len(table)} dictionaries in windows of {context}; one seed. Measured on {settings.suite.held_out_tokens:,} "
        "held-out tokens. `python benchmarks/bench_suite.py` makes this page, and\n"
        "[bench_suite.json](../../benchmarks/results/bench_suite.json) holds every number.\n",
        markdown(table, COLUMNS),
        "## Longer contexts\n",
        f"Medians over the dictionaries of a site, on {report_tokens:,} tokens of held-out code in windows of 256: "
        f"positions within the trained {context}, and beyond.\n",
        _contexts(reports["code"], context),
        "## A finetuned copy\n",
        "Dictionaries of the base model, spliced into a copy that was tuned on prose, on the same tokens; medians.\n",
        _tuned(reports),
        "## From a width to the next\n",
        "Of features that fire on that code: those with a feature of the wider dictionary within a cosine of 0.7 "
        "(kept), between random directions for comparison (by chance), those nearest to two or more of them (split; "
        "children: how many), and wider features that are near to none (new).\n",
        _splitting(reports["code"]),
        "## Nearest features and decoder norms\n",
        _neighbors(reports["code"]),
    ]
    return "\n".join(parts)


def _names(report: dict[str, Any], kind: str, part: str) -> list[Any]:
    return [row for name, row in report[part].items() if name.split(".")[1] == kind]


def _contexts(report: dict[str, Any], context: int) -> str:
    rows = {}
    for kind in KINDS:
        spans = [[span for span in row if span["first"] > 0] for row in _names(report, kind, "contexts")]
        near = [[span for span in row if span["last"] < context] for row in spans]
        far = [[span for span in row if span["first"] >= context] for row in spans]
        rows[kind] = {
            f"{key}_{where}": median(_mean(row, key) for row in chosen)
            for where, chosen in (("near", near), ("far", far))
            for key in ("fvu", "l0", "ce_added")
        }
    titles = {f"{key}_{where}": f"{title}, {said}" for key, title in (
        ("fvu", "FVU"), ("l0", "L0"), ("ce_added", "CE added")) for where, said in (
        ("near", f"{context // 2}-{context - 1}"), ("far", f"{context} on"))}  # fmt: skip
    return markdown(rows, titles)


def _mean(spans: list[dict[str, Any]], key: str) -> float:
    n = sum(span["n_tokens"] for span in spans)
    return sum(span[key] * span["n_tokens"] for span in spans) / n


def _tuned(reports: dict[str, Any]) -> str:
    rows = {}
    for kind in KINDS:
        for text, found in reports.items():
            pairs = _names(found, kind, "tuned")
            rows[f"{kind}, {text}"] = {
                f"{key}_{which}": median(pair[at][key] for pair in pairs)
                for key in ("fvu", "l0", "ce_added")
                for at, which in enumerate(("base", "tuned"))
            }
    titles = {f"{key}_{which}": f"{title}, {which}" for key, title in (
        ("fvu", "FVU"), ("l0", "L0"), ("ce_added", "CE added")) for which in ("base", "tuned")}  # fmt: skip
    return markdown(rows, titles)


def _splitting(report: dict[str, Any]) -> str:
    keys = {"kept_share": "kept", "chance_kept_share": "by chance", "split_share": "split", "children": "children",
            "new_share": "new"}  # fmt: skip
    rows = {
        kind: {key: median(row[key] for row in _names(report, kind, "splitting")) for key in keys} for kind in KINDS
    }
    return markdown(rows, keys)


def _neighbors(report: dict[str, Any]) -> str:
    rows = {}
    for name, row in report["neighbors"].items():
        if name.startswith("L2."):
            low, middle, high = row["norms"]
            rows[name] = {
                "n": row["n"],
                "nearest": row["nearest"][1],
                "chance": row["chance"],
                "near_share": row["near_share"],
                "norm": middle,
                "spread": high / max(low, 1e-12),
            }
    titles = {"n": "features", "nearest": "nearest cosine", "chance": "by chance", "near_share": "near", "norm": "norm",
              "spread": "norm 95 % / 5 %"}  # fmt: skip
    return markdown(rows, titles)


if __name__ == "__main__":
    main()
