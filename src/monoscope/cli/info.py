"""``monoscope info``: what stands at a path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from monoscope.cli.session import Json, session, show
from monoscope.core.config import read_toml
from monoscope.core.errors import DataError

HIDDEN = ("schema", "schema_minor", "generator", "shards", "files", "tensors", "rows_per_batch", "layout", "inputs")


def info(
    path: Annotated[Path, typer.Argument(show_default=False, help="What monoscope or transformers wrote.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all of it, and compare it with its checksums.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Describe a model, stored activations, a run, a suite, a dictionary or a feature bundle."""
    with session(as_json=as_json):
        result = describe(path)
        if verify:
            check(path, result["kind"])
            result["verified"] = True
        show(result, as_json=as_json)


def describe(path: Path) -> dict[str, Any]:
    """What stands at a path, by its manifest or configuration alone. Raises DataError for what is not ours."""
    if not path.exists():
        raise DataError(f"there is nothing at {path}")
    if (path / "manifest.json").is_file():
        return _manifest(path)
    if (path / "weights.safetensors").is_file() and (path / "config.toml").is_file():
        return _dictionary(path)
    if (path / "suite.toml").is_file():
        return _suite(path)
    if (path / "training.toml").is_file():
        return _run(path)
    if (path / "config.json").is_file():
        return _model(path)
    found = ", ".join(sorted(entry.name for entry in path.iterdir())[:10]) if path.is_dir() else "a file"
    raise DataError(
        f"{path} is no model, activations, run, suite, dictionary or bundle; found {found or 'an empty directory'}"
    )


def check(path: Path, kind: str) -> None:
    """Read everything at a path. Raises DataError, naming the part, where it is not what was written."""
    if kind == "activations":
        from monoscope.harvest import ActivationStore

        for _ in ActivationStore(path):
            pass
    elif kind == "tokens":
        from monoscope.harvest.text.pack import TokenWindows

        TokenWindows.load(path)
    elif kind == "features":
        from monoscope.features import FeatureBundle

        FeatureBundle.open(path).verify()
    elif kind == "dictionary":
        from monoscope.dictionaries import load

        load(path)
    else:
        raise DataError(f"{path} is a {kind}, which carries no checksums")


def _manifest(path: Path) -> dict[str, Any]:
    manifest = _json(path / "manifest.json")
    schema = str(manifest.get("schema"))
    if not schema.startswith("monoscope."):
        raise DataError(f"{path / 'manifest.json'} has schema {schema!r}, which is not one of monoscope's")
    parts = manifest.get("shards") or manifest.get("files") or []
    size = {"parts": len(parts), "bytes": sum(part["bytes"] for part in parts)} if parts else {}
    return {"kind": schema.removeprefix("monoscope."), **{k: v for k, v in manifest.items() if k not in HIDDEN}, **size}


def _dictionary(path: Path) -> dict[str, Any]:
    table = read_toml(path / "config.toml")
    size = (path / "weights.safetensors").stat().st_size
    return {"kind": "dictionary", **{k: v for k, v in table.items() if k not in HIDDEN}, "bytes": size, **_log(path)}


def _run(path: Path) -> dict[str, Any]:
    table = read_toml(path / "training.toml")
    logs = {name: row for name in table.get("runs", {}) if (row := _log(path / name))}
    state = "can be resumed" if (path / "checkpoint.pt").is_file() else "finished"
    return {"kind": "run", "state": state, **table, "logs": logs}


def _suite(path: Path) -> dict[str, Any]:
    table = read_toml(path / "suite.toml")
    finished = [name for name in table["runs"] if (path / name / "config.toml").is_file()]
    under_way = (
        read_toml(path / "pass" / "training.toml")["runs"] if (path / "pass" / "training.toml").is_file() else {}
    )
    state = "finished" if len(finished) == len(table["runs"]) else "can be resumed"
    return {
        "kind": "suite",
        "state": state,
        "finished": finished,
        "under_way": list(under_way),
        "waiting": [name for name in table["runs"] if name not in {*finished, *under_way}],
        "source": table["source"],
    }


def _model(path: Path) -> dict[str, Any]:
    config = _json(path / "config.json")
    if "model_type" not in config:
        raise DataError(f"{path / 'config.json'} names no model_type: not a Hugging Face model")
    sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings")
    weights = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    known = {name: config[name] for name in sizes if name in config}
    return {"kind": "model", "architecture": config["model_type"], **known, "bytes": weights}


def _log(path: Path) -> dict[str, Any]:
    """The last row of a log, if there is one."""
    file = path / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for line in reversed(lines):
        try:
            return {"log": json.loads(line)}
        except ValueError:  # cut short by a kill
            continue
    return {}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, not an object")
    return value
