"""The verbs that are killed: how each is begun and resumed, what must be whole then, and what it must equal."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fault_processes import start

from monoscope.core.io import LOCK, is_partial, sha256_file
from monoscope.core.tensors import read_tensors
from monoscope.features import FeatureBundle
from monoscope.features.survey import Survey
from monoscope.harvest import ActivationStore
from monoscope.harvest.shards import checksum
from monoscope.training.checkpoint import checkpoints
from monoscope.training.log import read_log

LIVE = """reads = ["1.resid_post"]
context = 64
text = {kind = "files", paths = ["text.txt"]}
"""
HARVEST = 'sites = ["1.resid_post"]\ncontext = 64\nshard_tokens = 512\ntext = {kind = "files", paths = ["text.txt"]}\n'
TRAIN = """activations = "acts"
[recipe]
wiring = {kind = "autoencoder", n_features = 96}
function = {kind = "batch_topk", k = 8}
[training]
tokens = 5_120
batch_tokens = 128
shuffle_tokens = 2048
log_every = 1
checkpoint_every = 0
"""
ANALYZE = 'dictionary = "sae"\ncontext = 64\nwindows_per_batch = 8\ntext = {kind = "files", paths = ["text.txt"]}\n'
TOKENS = 4000


@dataclass(frozen=True)
class Verb:
    """A verb in a directory that ``prepared`` made."""

    name: str
    resumes: bool = False
    prepare: Callable[[], None] = lambda: None

    def args(self, out: Path) -> list[str]:
        """The command: to begin, or to go on where something was begun."""
        goes_on = ["--resume"] if self.resumes and (out / ".lock").exists() else []
        return [self.name, f"{self.name}.toml", "--out", str(out), *goes_on]


def _save_after_every_batch() -> None:
    options = Survey.read.__kwdefaults__
    assert options is not None
    assert "save_every" in options
    options["save_every"] = 0.0


VERBS = {
    "train": Verb("train", resumes=True),
    "harvest": Verb("harvest"),
    "analyze": Verb("analyze", prepare=_save_after_every_batch),
}


def prepared(work: Path) -> None:
    """Text, a store of the bundled model's activations and a dictionary, in a directory."""
    (work / "text.txt").write_text(inspect.getsource(argparse)[:20_000])
    (work / "harvest.toml").write_text(f"text_tokens = {TOKENS}\n{HARVEST}")
    (work / "train.toml").write_text(TRAIN)
    (work / "live.toml").write_text(f"text_tokens = {TOKENS}\n{LIVE}" + TRAIN.partition("\n")[2])
    (work / "analyze.toml").write_text(f"text_tokens = {TOKENS}\n{ANALYZE}")
    for verb, out in (("harvest", "acts"), ("train", "sae")):
        made = start(work, [verb, f"{verb}.toml", "--out", out])
        if made.wait() != 0:
            raise RuntimeError(made.said)


def content(out: Path) -> dict[str, str]:
    """Everything an output says, by file, but for when it was made and how fast."""
    return {
        str(path.relative_to(out)): _said(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != LOCK and not is_partial(path)
    }


def _said(path: Path) -> str:
    if path.name == "metrics.jsonl":
        rows = [{key: value for key, value in row.items() if key != "tokens_per_s"} for row in read_log(path)]
        return json.dumps(rows)
    if path.name == "config.toml":
        return re.sub(r"(?m)^seconds = .*$", "", path.read_text())
    if path.name == "manifest.json":
        table = json.loads(path.read_text())
        if "created" in table:  # a bundle's: the fingerprint is over this too
            table = {key: value for key, value in table.items() if key not in ("created", "fingerprint")}
        return json.dumps(table)
    return sha256_file(path)


def broken(out: Path) -> list[str]:
    """Files of an output, finished or not, that are not whole, those left out that say they are not complete."""
    places = [out, out.with_name(f"{out.name}.partial")]
    found = [path for place in places for path in place.rglob("*") if path.is_file()]
    bad = [str(path) for path in found if not _is_partial(path, out.parent) and not _is_whole(path)]
    kept = checkpoints(out)
    bad += [str(path) for path in kept if not sha256_file(path).startswith(path.name.split(".")[1])]
    journal = places[1] / "progress.json"
    for directory in (out, places[1]):
        listed = [name for name in ("manifest.json", "progress.json") if (directory / name).is_file()]
        shards = json.loads((directory / listed[0]).read_text()).get("shards", []) if listed else []
        bad += [s["file"] for s in shards if checksum(directory / s["file"]) != s["checksum"]]
    if journal.is_file() or not (out / "manifest.json").is_file():
        return bad
    if out.suffix == ".mono":
        FeatureBundle.open(out)
    else:
        ActivationStore(out)
    return bad


def _is_partial(path: Path, root: Path) -> bool:
    return any(part.startswith(".") and part.endswith(".partial") for part in path.relative_to(root).parts)


def _is_whole(path: Path) -> bool:
    try:
        if path.suffix == ".safetensors":
            read_tensors(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".toml":
            tomllib.loads(path.read_text())
    except ValueError:
        return False
    return True


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written, as its name says."""
    return int(re.split(r"[-.]", checkpoint.name)[1])


def steps_lost(out: Path) -> int | None:
    """Steps in the log of a training that its newest checkpoint does not hold; None where there is no checkpoint."""
    kept = checkpoints(out)
    log = out / "metrics.jsonl"
    if not kept:
        return None
    reached = max((row["step"] for row in read_log(log)), default=0) if log.is_file() else 0
    return max(0, reached - step_of(kept[0]))


def digest(parts: dict[str, str]) -> str:
    """A short name for what an output says."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
