"""What people wrote about a feature, as its page shows it."""

from __future__ import annotations

from typing import Any

from monoscope.server.library.library import Entry
from monoscope.server.problems import ProblemError
from monoscope.server.rows import wire
from monoscope.server.shipped import shipped_of
from monoscope.server.state import State
from monoscope.server.wire.feature import ListUse, Uses
from monoscope.server.wire.workspace import Explanation, Label, Note, Shipped, Shown


def texts_of(state: State, entry: Entry, feature: int) -> dict[str, Any]:
    """Labels, explanations, tags and the bookmark of a feature; none where the workspace cannot be used."""
    shipped = shipped_of(entry.bundle, feature)
    try:
        workspace = state.desk.workspace
    except ProblemError:
        nothing = {"my_label": None, "labels": [], "explanations": [], "tags": [], "bookmarked": False}
        return {**nothing, "label": _from_bundle(shipped), "shipped": shipped}
    fp = entry.dictionary_fp
    labels = [wire(Label, row, dictionary=entry.id) for row in workspace.labels.of(fp, feature)]
    best = workspace.labels.best(fp, feature)
    uses = workspace.uses(fp, feature)
    return {
        "label": _from_bundle(shipped) if best is None else wire(Shown, best),
        "my_label": next((row for row in labels if row.author == workspace.database.author), None),
        "labels": labels,
        "explanations": [explanation_of(state, row) for row in workspace.explanations.of(fp, feature)],
        "shipped": shipped,
        "tags": [tag.name for tag in uses.tags],
        "bookmarked": uses.bookmarked,
    }


def uses_of(state: State, entry: Entry, feature: int) -> Uses:
    """Lists, notes and tags of a feature."""
    found = state.desk.workspace.uses(entry.dictionary_fp, feature)
    return Uses(
        lists=[ListUse(id=row.id, name=row.name) for row in found.lists],
        notes=[wire(Note, row) for row in found.notes],
        bookmarked=found.bookmarked,
        tags=[tag.name for tag in found.tags],
    )


def _from_bundle(shipped: list[Shipped]) -> Shown | None:
    best = next(iter(shipped), None)
    return best and Shown(text=best.text, source="bundle", author=best.judge, score=best.score)


def explanation_of(state: State, row: Any) -> Explanation:
    """An explanation with the latest value of each of its scorers."""
    scores = {score.scorer: score.value for score in state.desk.workspace.scores.of(row.id)}
    return wire(Explanation, row, dictionary=state.id_of(row.dictionary_fp), scores=scores)
