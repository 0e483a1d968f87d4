"""The kinds of jobs: what each asks of the worker, and what is kept of the answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from monoscope.core.config import read_toml
from monoscope.server.jobs.runner import Handler
from monoscope.server.jobs.sample import is_sample
from monoscope.server.jobs.tables import Tables
from monoscope.server.library.discover import is_inside
from monoscope.server.library.library import Entry, Library
from monoscope.server.library.models import BUNDLED
from monoscope.server.live.service import Live
from monoscope.server.problems import ProblemError, shown
from monoscope.server.wire.compare import CompareRequest
from monoscope.server.wire.jobs import AnalyzeJob, EvaluateJob, SampleJob
from monoscope.server.worker.client import Message

if TYPE_CHECKING:
    from monoscope.features.workspace.job_records import Job

SIGNED = frozenset({"abs_topk", "pursuit"})  # functions under which opposite directions are one feature


def handlers(live: Live, tables: Tables, sample: Path) -> dict[str, Handler]:
    """All kinds. ``tables`` keeps what is too large for the workspace; ``sample`` is the sample's directory."""
    library = live.library

    def compared(job: Job, message: Message) -> dict[str, Any]:
        tables.save(job.id, message.arrays)
        return message.body | {"metrics": [_metrics(_entry(library, name)) for name in job.config["dicts"]]}

    def analyzed(job: Job, message: Message) -> dict[str, Any]:
        library.add(Path(job.config["path"]))  # a run under way may have saved it after the library was read
        entries, _, _ = library.add(Path(message.body["bundle"]))
        return message.body | {"dictionary": entries[0].id if entries else None}

    def sampled(job: Job, message: Message) -> dict[str, Any]:
        entries, _, _ = library.add(sample)
        return message.body | {"dictionary": entries[0].id if entries else None}

    return {
        "compare": Handler(lambda config: compare_body(live, CompareRequest.model_validate(config)), compared),
        "evaluate": Handler(lambda config: evaluate_body(live, EvaluateJob.model_validate(config)), _body),
        "analyze": Handler(lambda config: analyze_body(live, AnalyzeJob.model_validate(config)), analyzed),
        "sample": Handler(lambda config: sample_body(sample, SampleJob.model_validate(config)), sampled),
    }


def compare_body(live: Live, asked: CompareRequest) -> dict[str, Any]:
    """What the worker is asked. Raises ProblemError for dictionaries that cannot be compared so."""
    if twice := {name for name in asked.dicts if asked.dicts.count(name) > 1}:
        raise ProblemError(422, f"{min(twice)} is named twice", found=asked.dicts)
    entries = [_entry(live.library, name) for name in asked.dicts]
    widths = {entry.id: _width(entry) for entry in entries}
    if asked.by == "decoder" and len(set(widths.values())) > 1:
        found = ", ".join(f"{name} writes {width}" for name, width in widths.items())
        raise ProblemError(
            422, f"directions of different widths have no cosine: {found}", hint="compare by activations instead"
        )
    dicts = []
    for entry in entries:
        is_live = live.library.is_live(entry)
        if asked.by == "activations" and not is_live:
            live.target(entry.id)  # says what is missing
        dicts.append(
            {
                "name": entry.id,
                "bundle": str(entry.path),
                "signed": entry.manifest.dictionary.function in SIGNED,
                "target": live.target(entry.id) if is_live else None,
            }
        )
    return {"dicts": dicts, **asked.model_dump(include={"by", "threshold", "tokens"})}


def evaluate_body(live: Live, asked: EvaluateJob) -> dict[str, Any]:
    """What the worker is asked. Raises ProblemError for a dictionary that cannot be run."""
    return {"target": live.target(asked.dictionary), "tokens": asked.tokens, "roots": _roots(live.library)}


def analyze_body(live: Live, asked: AnalyzeJob) -> dict[str, Any]:
    """What the worker is asked. Raises ProblemError for a path outside the roots, or that is no dictionary."""
    library = live.library
    path = _inside(library, asked.path)
    out = path.with_name(f"{path.name}-{asked.name}.mono")
    if out.exists():
        raise ProblemError(422, f"{out} exists", hint="choose another name")
    source = read_toml(path / "config.toml").get("provenance", {}).get("source", {})
    about = source.get("model", {}) if isinstance(source, dict) else {}
    name = about.get("name") if isinstance(about, dict) else None
    model = library.find_model(name if isinstance(name, str) else None)
    if model is None:
        raise ProblemError(422, f"the model {shown(name)!r} that {path.name} was trained on is not on this machine")
    bos = source.get("bos")
    target = {
        "name": path.name,
        "path": str(path),
        "model": str(model),
        "model_name": name or BUNDLED,
        "bos": bos if isinstance(bos, str) else None,
        "model_fingerprint": about.get("fingerprint"),
    }
    return {"target": target, "tokens": asked.tokens, "out": str(out), "roots": _roots(library)}


def sample_body(sample: Path, asked: SampleJob) -> dict[str, Any]:
    """What the worker is asked. Raises ProblemError where the sample was made already."""
    if is_sample(sample):
        raise ProblemError(422, "the sample was made already", found=str(sample), hint="open it")
    return {"out": str(sample / "sample"), "scale": asked.scale}


def _inside(library: Library, text: str) -> Path:
    if "\0" in text:
        raise ProblemError(422, "a path cannot hold a NUL character")
    path = Path(text)
    if not path.is_absolute() or not any(is_inside(path, root) for root in library.roots):
        roots = ", ".join(map(str, library.roots))
        raise ProblemError(422, "this path lies outside of what this server may open", expected=f"below {roots}")
    path = path.resolve()
    if not all((path / name).is_file() for name in ("config.toml", "weights.safetensors")):
        raise ProblemError(
            422,
            f"{shown(str(path))} is not a dictionary",
            expected="a directory with config.toml and weights.safetensors",
        )
    return path


def _entry(library: Library, name: str) -> Entry:
    entry = library.entry(name)
    if not isinstance(entry, Entry):
        raise ProblemError(404, f"the library has no dictionary {shown(name)!r}", found=shown(name))
    return entry


def _width(entry: Entry) -> int:
    about = entry.manifest.dictionary
    return (about.d_model or 0) * len(about.writes)


def _roots(library: Library) -> list[str]:
    return [str(root) for root in library.roots]


def _metrics(entry: Entry) -> dict[str, Any]:
    about, stats = entry.manifest.dictionary, entry.manifest.stats
    return {
        "id": entry.id,
        **{name: getattr(about, name) for name in ("n_features", "d_model", "reads", "writes", "function", "k")},
        **{name: stats.get(name) for name in ("l0", "fvu", "ce_recovered", "dead_share")},
    }


def _body(job: Job, message: Message) -> dict[str, Any]:
    return message.body
