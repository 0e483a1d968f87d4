"""Tasks that measure a dictionary on text: its evaluation, a bundle of its features, and both of the sample.

What text a dictionary was trained on, its own config says. That config may come from anybody, so files that it names
are read inside the server's roots alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from monoscope.core.errors import ConfigError, OutputError, UserError
from monoscope.demo.run import run
from monoscope.dictionaries import Dictionary
from monoscope.evals import evaluate as measure
from monoscope.features import Analysis
from monoscope.features import analyze as describe
from monoscope.harvest import SkipPolicy, StandardLibrary, TokenWindows, live
from monoscope.harvest.text.sources import Files, TextSource
from monoscope.server.worker.process import Context, Result
from monoscope.server.worker.shelf import Model, Target

WINDOWS_AT_ONCE = 4  # few, since whoever waits is let pass between batches
DEFAULTS = {"context": 256, "bos": "window", "skip": {}}


class Evaluate(BaseModel):
    """See ``wire.jobs.EvaluateJob``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Target
    tokens: int
    roots: list[str]


class Analyze(BaseModel):
    """See ``wire.jobs.AnalyzeJob``; ``out`` is the directory to write."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Target
    tokens: int
    out: str
    roots: list[str]


class Sample(BaseModel):
    """See ``wire.jobs.SampleJob``; ``out`` is the directory to write."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: str
    scale: float


def evaluate(context: Context, body: dict[str, Any]) -> Result:
    """Fidelity, sparsity, and what splicing the dictionary in costs the model, on held-out text."""
    asked = Evaluate.model_validate(body)
    model, dictionary = context.shelf.model(asked.target), context.shelf.dictionary(asked.target)
    text = _text(dictionary, asked.roots)
    if not isinstance(text, StandardLibrary):
        raise UserError(
            f"{asked.target.name} was trained on {text.to_dict()}, of which no held-out part is known; name one with "
            "monoscope evaluate"
        )
    windows = _windows(model, dictionary, StandardLibrary(split="held_out"), asked.tokens)
    return measure(model.lm, dictionary, windows, batch=WINDOWS_AT_ONCE, skip=_skip(dictionary)).to_dict(), {}


def analyze(context: Context, body: dict[str, Any]) -> Result:
    """A bundle of the dictionary's features, from the text it was trained on."""
    asked = Analyze.model_validate(body)
    out = Path(asked.out)
    if out.exists():
        raise OutputError(f"{out} exists; choose another name")
    model, dictionary = context.shelf.model(asked.target), context.shelf.dictionary(asked.target)
    windows = _windows(model, dictionary, _text(dictionary, asked.roots), asked.tokens)
    sites = list(dict.fromkeys((*dictionary.reads, *dictionary.writes)))
    source = live(model.lm, windows, sites, windows_per_batch=WINDOWS_AT_ONCE, skip=_skip(dictionary))
    bundle = describe(dictionary, source, out, lm=model.lm, config=Analysis(tokens=asked.tokens))
    return {"bundle": str(out), "n_features": len(bundle), "stats": bundle.manifest["stats"]}, {}


def sample(context: Context, body: dict[str, Any]) -> Result:
    """The demo's dictionary of the bundled model, and its features."""
    asked = Sample.model_validate(body)
    with torch.enable_grad():
        made = run(Path(asked.out), force=True, scale=asked.scale)  # what is there was not finished
    return {name: made[name] for name in ("FVU", "L0", "CE recovered")}, {}


def _source(dictionary: Dictionary) -> dict[str, Any]:
    source = dictionary.provenance.get("source", {})
    return source if isinstance(source, dict) else {}


def _text(dictionary: Dictionary, roots: list[str]) -> TextSource:
    table = _source(dictionary).get("text")
    if not isinstance(table, dict):
        raise UserError("the dictionary does not say what text it was trained on; name one with the command line")
    text = TextSource.from_dict(table)
    if isinstance(text, Files):
        allowed = [Path(root).resolve() for root in roots]
        for path in text.paths:
            if not any(Path(path).resolve().is_relative_to(root) for root in allowed):
                raise UserError(f"the dictionary's text {path!r} lies outside of what this server may open")
    elif not isinstance(text, StandardLibrary):
        raise ConfigError(f"text of the kind {table.get('kind')!r} is read by the command line alone")
    return text


def _windows(model: Model, dictionary: Dictionary, text: TextSource, tokens: int) -> TokenWindows:
    about = DEFAULTS | _source(dictionary)
    return text.windows(model.lm, context=about["context"], bos=about["bos"], tokens=tokens)


def _skip(dictionary: Dictionary) -> SkipPolicy:
    return SkipPolicy.from_dict((DEFAULTS | _source(dictionary))["skip"])
