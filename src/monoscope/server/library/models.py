"""Where a model is that a bundle names: the bundled one, a directory below the roots, or what the hub's cache holds.

A bundle can come from anybody, so the path it may name is followed only inside the roots and the given models.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from monoscope.server.library.discover import is_inside

BUNDLED = "bundled"
TEMPLATES = ("chat_template.jinja", "chat_template.json")
MOST_SETTINGS = 20_000_000


def find_model(name: str | None, roots: Iterable[Path], models: Iterable[Path]) -> Path | None:
    """Directory of a model; None where it is not on this machine."""
    if not name:
        return None
    if name == BUNDLED:
        return Path(str(files("monoscope") / "demo" / "model"))
    known = list(models)
    for path in known:
        if str(path) == name or path.name == name or "/".join(path.parts[-2:]) == name:
            return path
    path = Path(name)
    if path.is_absolute() and any(is_inside(path, root) for root in (*roots, *known)) and _is_model(path):
        return path
    return _cached(name)


@lru_cache(256)
def has_template(model: Path) -> bool:
    """Whether a model's directory holds a chat template: in a file of its own, or in the tokenizer's settings."""
    if any((model / name).is_file() for name in TEMPLATES):
        return True
    try:
        with (model / "tokenizer_config.json").open(encoding="utf-8") as file:
            settings = json.loads(file.read(MOST_SETTINGS))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file()


def _cached(name: str) -> Path | None:
    """The newest snapshot of a hub's model that was downloaded whole."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", name) or ".." in name:
        return None
    snapshots = hub_cache() / f"models--{name.replace('/', '--')}" / "snapshots"
    try:
        found = [path for path in snapshots.iterdir() if _is_model(path) and any(path.glob("*.safetensors"))]
    except OSError:
        return None
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def hub_cache() -> Path:
    """Where the hub's own library keeps what was downloaded."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
