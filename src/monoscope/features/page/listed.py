"""What a page shows of a list: its features of one dictionary, in order, with the note on each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monoscope.features.workspace import Workspace
    from monoscope.features.workspace.records import FeatureList


def of_list(workspace: Workspace, chosen: FeatureList, dictionary_fp: str) -> dict[str, Any]:
    """Arguments of ``render_page``: title, features and notes; no features where it has none of the dictionary."""
    items = [item for item in workspace.items.of(chosen.id) if item.dictionary_fp == dictionary_fp]
    notes = {item.feature: item.note for item in items}
    return {"title": chosen.name, "features": [item.feature for item in items], "notes": notes}
