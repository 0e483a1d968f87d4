"""Rows of the workspace as the wire carries them."""

from __future__ import annotations

from typing import Any, TypeVar

from monoscope.server.wire.base import Wire

W = TypeVar("W", bound=Wire)


def wire(model: type[W], row: Any, **more: Any) -> W:
    """A row as a record of the wire; ``more`` are fields that it does not have itself."""
    fields = {name: getattr(row, name) for name in model.model_fields if name not in more and hasattr(row, name)}
    for name in ("created", "updated"):
        if name in fields:
            fields[name] = fields[name].isoformat(timespec="milliseconds")
    return model(**fields, **more)
