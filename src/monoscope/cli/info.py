"""``monoscope info``: what stands at a path, or at a reference to somebody's dictionary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from monoscope.cli.convert import Choose, Format, Model, Reading, Ref
from monoscope.cli.session import Json, session, show
from monoscope.core.errors import DataError
from monoscope.core.stores.remote import Location, Remote, location, sizes

FILES = ("config.toml", "weights.safetensors")
HIDDEN = ("schema", "schema_minor", "generator", "shards", "files", "tensors", "rows_per_batch", "layout", "inputs")


def info(
    ref: Ref,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all of it, and compare it with its checksums.")
    ] = False,
    format: Format = None,
    choices: Choose = None,
    model: Model = None,
    reading: Reading = None,
    as_json: Json = False,
) -> None:
    """Describe a model, stored activations, a run, a suite, a feature bundle, or a dictionary, whoever wrote it.

    With --model, a dictionary is tried on activations of a model, and what does not fit is said in words.
    """
    with session(as_json=as_json):
        from monoscope.registry import is_reference

        path = Path(ref) if is_reference(ref) or ref.startswith("hf://") else location(ref)
        if (":" not in ref or isinstance(path, Remote)) and not path.exists() and not is_reference(ref):
            raise DataError(f"there is nothing at {path}")
        if any((format, choices, model, reading)) or not _is_ours(path):
            from monoscope.cli import references

            result = references.describe(ref, format, choices, model, reading)
            if verify:
                references.verify(ref, format)
        else:
            result = describe(path)
            if verify:
                check(path, result["kind"])
        show(result | ({"verified": True} if verify else {}), as_json=as_json)


def _is_ours(path: Location) -> bool:
    """Whether monoscope or transformers wrote what stands at a path."""
    marks = ("manifest.json", "suite.toml", "training.toml")
    if any((path / name).is_file() for name in marks) or all((path / name).is_file() for name in FILES):
        return True
    config = path / "config.json"
    return config.is_file() and "model_type" in _json(config)


def describe(path: Location) -> dict[str, Any]:
    """What stands at a path, by its manifest or configuration alone."""
    if (path / "manifest.json").is_file():
        return _manifest(path)
    if all((path / name).is_file() for name in FILES):
        return _dictionary(path)
    if (path / "suite.toml").is_file():
        return _suite(path)
    if (path / "training.toml").is_file():
        return _run(path)
    return _model(path)


def check(path: Location, kind: str) -> None:
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


def _manifest(path: Location) -> dict[str, Any]:
    manifest = _json(path / "manifest.json")
    schema = str(manifest.get("schema"))
    if not schema.startswith("monoscope."):
        raise DataError(f"{path / 'manifest.json'} has schema {schema!r}, which is not one of monoscope's")
    parts = manifest.get("shards") or manifest.get("files") or []
    size = {"parts": len(parts), "bytes": sum(part["bytes"] for part in parts)} if parts else {}
    return {"kind": schema.removeprefix("monoscope."), **{k: v for k, v in manifest.items() if k not in HIDDEN}, **size}


def _dictionary(path: Location) -> dict[str, Any]:
    table = _toml(path / "config.toml")
    size = sizes(path)["weights.safetensors"]
    return {"kind": "dictionary", **{k: v for k, v in table.items() if k not in HIDDEN}, "bytes": size, **_log(path)}


def _run(path: Location) -> dict[str, Any]:
    table = _toml(path / "training.toml")
    logs = {name: row for name in table.get("runs", {}) if (row := _log(path / name))}
    state = "can be resumed" if any(name.startswith("checkpoint-") for name in sizes(path)) else "finished"
    return {"kind": "run", "state": state, **table, "logs": logs}


def _suite(path: Location) -> dict[str, Any]:
    table = _toml(path / "suite.toml")
    finished = [name for name in table["runs"] if (path / name / "config.toml").is_file()]
    under_way = _toml(path / "pass" / "training.toml")["runs"] if (path / "pass" / "training.toml").is_file() else {}
    state = "finished" if len(finished) == len(table["runs"]) else "can be resumed"
    return {
        "kind": "suite",
        "state": state,
        "finished": finished,
        "under_way": list(under_way),
        "waiting": [name for name in table["runs"] if name not in {*finished, *under_way}],
        "source": table["source"],
    }


def _model(path: Location) -> dict[str, Any]:
    config = _json(path / "config.json")
    named = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings")
    weights = sum(size for name, size in sizes(path).items() if name.endswith(".safetensors") and "/" not in name)
    known = {name: config[name] for name in named if name in config}
    return {"kind": "model", "architecture": config["model_type"], **known, "bytes": weights}


def _log(path: Location) -> dict[str, Any]:
    """The last row of a log, if there is one."""
    file = path / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for line in reversed(lines):
        try:
            return {"log": json.loads(line)}
        except ValueError:  # cut short by a kill
            continue
    return {}


def _toml(path: Location) -> dict[str, Any]:
    from monoscope.core.config import read_toml

    return read_toml(path)


def _json(path: Location) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, not an object")
    return value
