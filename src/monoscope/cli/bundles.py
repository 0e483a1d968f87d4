"""What feature bundles are converted to: one entry for each target of ``monoscope convert BUNDLE DST --to TARGET``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monoscope.core.errors import ConfigError, nearest

Writer = Callable[..., dict[str, Any]]
"""``writer(bundle, destination, force=...)`` writes it, and returns what is shown of that."""

TARGETS: dict[str, Writer] = {}


def is_bundle(ref: str) -> bool:
    """Whether a feature bundle stands at a reference."""
    manifest = Path(ref) / "manifest.json"
    try:
        return json.loads(manifest.read_text(encoding="utf-8")).get("schema") == "monoscope.features"
    except (OSError, ValueError, AttributeError):
        return False


def convert_bundle(bundle: Path, destination: Path, target: str, *, force: bool) -> dict[str, Any]:
    """Write a bundle in another form. Raises ConfigError for one there is not."""
    if target not in TARGETS:
        known = nearest(target, TARGETS) if TARGETS else "bundles are read as they are: Parquet, with a README"
        raise ConfigError(f"{bundle} is a feature bundle, and is not written as {target!r}; {known}")
    return TARGETS[target](bundle, destination, force=force)
