"""What the worker can be asked to do."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from monoscope.server.worker.activate import activate, diff, one_feature
from monoscope.server.worker.compare import compare
from monoscope.server.worker.encoded import encoded
from monoscope.server.worker.measure import analyze, evaluate, sample
from monoscope.server.worker.process import Context, Job, Result
from monoscope.server.worker.shelf import Target
from monoscope.server.worker.steer import steer
from monoscope.server.worker.texts import Text, shown, tokenized

_targets = TypeAdapter(list[Target])


def warm(context: Context, body: dict[str, Any]) -> Result:
    """Load what is about to be needed, and use it once, since a first pass takes longer than others."""
    for target in _targets.validate_python(body["targets"]):
        context.check()
        model = context.shelf.model(target)
        tokens = tokenized(model, Text(text="warm", most_tokens=64), target.bos)
        shown(model, tokens.tolist())
        item = encoded(context.shelf, model, target, tokens, hide_first=True, max_density=1.0)
        whole = item.whole()
        item.relative(whole["feature"], whole["value"])
    return {}, {}


TASKS: dict[str, Job] = {
    "warm": warm,
    "activate": activate,
    "activate one feature": one_feature,
    "compare two texts": diff,
    "steer": steer,
    "compare": compare,
    "evaluate": evaluate,
    "analyze": analyze,
    "sample": sample,
}
