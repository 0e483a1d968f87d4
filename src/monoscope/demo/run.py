"""The main job on the bundled model, from text to a page of features: train, evaluate, analyze, show."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

from monoscope.core.io import refuse_existing
from monoscope.core.progress import progress
from monoscope.demo import MODEL
from monoscope.dictionaries import Recipe
from monoscope.evals import evaluate
from monoscope.features import Analysis, analyze
from monoscope.features.page import Series, write_page
from monoscope.harvest import StandardLibrary, live
from monoscope.models import LanguageModel
from monoscope.training import Training, train
from monoscope.training.log import METRICS, read_log

SITE = "2.resid_post"
EXPANSION, K = 16, 32
TRAIN_TOKENS, HELD_OUT_TOKENS, ANALYZE_TOKENS = 1_200_000, 50_000, 400_000
CURVES = ("fvu", "l0", "dead")


def run(out: Path, *, force: bool = False, scale: float = 1.0) -> dict[str, Any]:
    """Train a dictionary at one site, and describe it; the result is what ``monoscope demo`` prints.

    ``scale`` multiplies every token count. Writes ``dictionary/``, ``features.mono/`` and ``index.html`` into ``out``.
    """
    refuse_existing(out, force=force)
    began = time.monotonic()
    with progress("load the bundled model and its text", None, "steps"):
        lm = LanguageModel.from_pretrained(MODEL)
        lm.name = "bundled"
        train_text = StandardLibrary(split="train").windows(lm, tokens=round(TRAIN_TOKENS * scale))
        held_out = StandardLibrary(split="held_out").windows(lm, tokens=round(HELD_OUT_TOKENS * scale))
    recipe = Recipe.from_dict(
        {
            "wiring": {"kind": "autoencoder", "n_features": EXPANSION * lm.width(SITE)},
            "function": {"kind": "topk", "k": K},
        }
    )
    dictionary = train(
        recipe,
        live(lm, train_text.shuffled(0), [SITE]),
        training=Training(tokens=train_text.n_tokens, seed=0),
        out=out / "dictionary",
        force=force,
    )
    evaluation = evaluate(lm, dictionary, held_out)
    fidelity, losses = evaluation.fidelity, evaluation.losses
    stats = {"fvu": fidelity.fvu, "ce_recovered": losses.ce_recovered_mean}
    source = live(lm, train_text, [SITE])
    bundle = analyze(
        dictionary,
        source,
        out / "features.mono",
        lm=lm,
        config=Analysis(tokens=round(ANALYZE_TOKENS * scale)),
        stats=stats,
        force=force,
    )
    log = read_log(out / "dictionary" / METRICS)
    series = [Series(name, [row["tokens"] for row in log], [row[name] for row in log]) for name in CURVES]
    rate = median(row["tokens_per_s"] for row in log)
    page = write_page(out / "index.html", bundle, series=series, facts={"Tokens/s in training": rate})
    return {
        "FVU": fidelity.fvu,
        "L0": evaluation.firing.l0,
        "CE recovered": losses.ce_recovered_mean,
        "dead share": log[-1]["dead"],
        "tokens/s": rate,
        "seconds": round(time.monotonic() - began),
        "page": str(page.resolve()),
        "all features": f"monoscope serve {out}",
    }
