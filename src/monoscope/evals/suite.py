"""What the dictionaries of a suite are worth, side by side: one table, kept beside them.

Each dictionary's evaluation is kept as soon as it is there, and not made again for the same weights and text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monoscope.core.io import write_json, write_text
from monoscope.core.progress import progress
from monoscope.dictionaries import load
from monoscope.evals.evaluate import evaluate
from monoscope.harvest import SkipPolicy, TokenWindows
from monoscope.models import LanguageModel

EVALUATION, TABLE, CARD = "evaluation.json", "suite.json", "README.md"
COLUMNS = {
    "features": "F",
    "fvu": "FVU",
    "l0": "L0",
    "ce_recovered": "CE recovered",
    "ce_added": "CE added, nats",
    "dead": "dead",
}


def evaluate_suite(
    out: Path, names: Sequence[str], lm: LanguageModel, windows: TokenWindows, *, batch: int, skip: SkipPolicy
) -> dict[str, dict[str, Any]]:
    """Rows of the table by name, of dictionaries that stand in ``out`` under their names.

    ``ce_recovered`` is against the mean, ``ce_added`` is CE spliced - CE clean in nats. Writes
    ``NAME/evaluation.json``, ``suite.json`` and a card ``README.md``.
    """
    table = {}
    with progress("evaluate", len(names), "dictionaries") as bar:
        for name in names:
            table[name] = _row(_evaluation(out / name, lm, windows, batch, skip))
            bar.advance(1)
    text = {"windows": len(windows), "context": windows.context, **windows.info}
    write_json(out / TABLE, {"model": lm.name, "held_out": text, "dictionaries": table})
    write_text(out / CARD, card(lm.name, table, windows))
    return table


def _evaluation(
    directory: Path, lm: LanguageModel, windows: TokenWindows, batch: int, skip: SkipPolicy
) -> dict[str, Any]:
    dictionary, path = load(directory), directory / EVALUATION
    measured_on = {"windows": windows.fingerprint, "skip": skip.to_dict(), "model_fingerprint": lm.fingerprint()}
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.get("measured_on") == measured_on and kept["dictionary"] == dictionary.fingerprint():
            return kept
    result = evaluate(lm, dictionary, windows, batch=batch, skip=skip).to_dict()
    write_json(path, result | {"measured_on": measured_on})
    return result


def _row(evaluation: dict[str, Any]) -> dict[str, Any]:
    fidelity, firing, losses = (evaluation[part] for part in ("fidelity", "firing", "losses"))
    return {
        "reads": evaluation["reads"],
        "writes": evaluation["writes"],
        "features": firing["n_features"],
        "fvu": fidelity["fvu"],
        "l0": firing["l0"],
        "ce_recovered": losses["ce_recovered_mean"],
        "ce_added": losses["ce_spliced"] - losses["ce_clean"],
        "dead": firing["dead_share"],
    }


def markdown(table: dict[str, dict[str, Any]], columns: dict[str, str]) -> str:
    """A table of rows by name, with some of their columns under a title each."""
    head = ["", *columns.values()]
    rows = [[name, *(_shown(key, row[key]) for key in columns)] for name, row in table.items()]
    rules = ["---", *["---:"] * len(columns)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rules, *rows)) + "\n"


def _shown(key: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    if isinstance(value, int):
        return f"{value:,}"
    if key in ("ce_recovered", "dead") or key.endswith("share"):
        return f"{value:.1%}"
    return f"{value:.1f}" if key.startswith("l0") else f"{value:.3f}"


def card(model: str, table: dict[str, dict[str, Any]], windows: TokenWindows) -> str:
    """What a suite holds, in Markdown."""
    return (
        f"# {len(table)} dictionaries of {model}\n\n"
        "Each directory holds one dictionary (`config.toml`, `weights.safetensors`), its log, and its evaluation; "
        "`suite.toml` says how each was trained. A name reads layer, site, width; `mlp` is a transcoder, from mlp_in "
        "to mlp_out.\n\n"
        f"Measured on {len(windows):,} windows of {windows.context} tokens that were not trained on. FVU: fraction "
        "of variance unexplained. L0: features that fire on a token. CE recovered: share of the loss that the site's "
        "mean costs; CE added: loss spliced less loss clean. Dead: features that never fire here.\n\n"
        + markdown(table, COLUMNS)
    )
