"""Live: what routes ask of the worker, in the worker's terms, and back."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Any

from monoscope.server.library.library import Fault, Library
from monoscope.server.live.stream import Event
from monoscope.server.problems import ProblemError
from monoscope.server.wire.activate import (
    ActivateRequest,
    ActivateResponse,
    DiffRequest,
    DiffResponse,
    FeatureRequest,
    FeatureResponse,
    Prompt,
)
from monoscope.server.wire.steer import EditIn, SteerRequest
from monoscope.server.wire.worker import WorkerStatus
from monoscope.server.worker.client import Worker
from monoscope.server.worker.errors import WorkerError

MOST_TOKENS = 4096  # of a text, whatever the model could read
MOST_STREAMS = 8
SECONDS = {"activate": 60.0, "feature": 30.0, "steer": 600.0, "warm": 300.0}
UNITS = {"add": "norm", "clamp": "maxact", "floor": "maxact", "cap": "maxact"}

Labels = Callable[[str, Sequence[int]], Mapping[int, str]]


class Live:
    """Live requests over a library.

    labels: the lines shown for some features of a dictionary; called in a thread
    """

    def __init__(self, library: Library, worker: Worker, *, labels: Labels, most_characters: int) -> None:
        self.library, self.worker = library, worker
        self._labels, self._most_characters = labels, most_characters
        self.n_streams = 0

    async def activate(self, asked: ActivateRequest) -> ActivateResponse:
        """The features of some dictionaries that fire on a text."""
        body = {
            "targets": [self.target(name) for name in dict.fromkeys(asked.dicts)],
            "prompt": self.prompt(asked),
            **asked.model_dump(include={"top", "hide_first", "max_density"}),
        }
        found = await self._ask("activate", body, SECONDS["activate"])
        await asyncio.to_thread(self._label, [hit for hits in (*found["per_token"], found["whole"]) for hit in hits])
        return ActivateResponse.model_validate(found)

    async def feature(self, asked: FeatureRequest) -> FeatureResponse:
        """One feature on a text."""
        body = {"target": self.target(asked.dictionary), "prompt": self.prompt(asked), "feature": asked.feature}
        return FeatureResponse.model_validate(await self._ask("activate one feature", body, SECONDS["feature"]))

    async def diff(self, asked: DiffRequest) -> DiffResponse:
        """Two texts, compared."""
        body = {
            "target": self.target(asked.dictionary),
            **{side: self.prompt(Prompt(text=getattr(asked, side))) for side in ("a", "b")},
            **asked.model_dump(include={"top", "hide_first", "max_density"}),
        }
        found = await self._ask("compare two texts", body, SECONDS["activate"])
        hits = [hit for row in found["aligned"] for hit in row["features"]] + found["whole"]
        await asyncio.to_thread(self._label, hits, asked.dictionary)
        return DiffResponse.model_validate(found)

    def steer(self, asked: SteerRequest) -> AsyncGenerator[Event]:
        """Events of a steered generation. What is wrong with the request is raised at once."""
        if self.n_streams >= MOST_STREAMS:
            raise ProblemError(
                503,
                f"{self.n_streams} generations are under way already",
                expected=f"at most {MOST_STREAMS} at once",
                hint="wait for one to end, or stop it",
                headers={"Retry-After": "5"},
            )
        body = {
            "id": secrets.token_hex(8),
            "targets": {name: self.target(name) for name in dict.fromkeys(edit.dictionary for edit in asked.edits)},
            "prompt": self.prompt(asked),
            "edits": [_edit(edit) for edit in asked.edits],
            "seed": secrets.randbelow(2**31) if asked.seed is None else asked.seed,
            **asked.model_dump(include={"max_tokens", "temperature", "top_k", "guard"}),
        }
        return self._generation(body)

    def status(self) -> WorkerStatus:
        """What the worker is doing."""
        return self.worker.state.status()

    async def statuses(self) -> AsyncGenerator[Event]:
        """The status now, and whenever it changes."""
        async for status in self.worker.state.changes():
            yield Event("status", status)

    async def warm(self, names: Iterable[str]) -> None:
        """Start the worker, and load what is about to be asked for."""
        targets = [self.target(name) for name in dict.fromkeys(names)]
        await self._ask("warm", {"targets": targets}, SECONDS["warm"])

    def target(self, name: str) -> dict[str, Any]:
        """A dictionary of the library as the worker knows it. Raises ProblemError where it cannot be run."""
        entry = self.library.entry(name)
        if entry is None:
            raise ProblemError(404, f"no dictionary {name!r}", found=name)
        if isinstance(entry, Fault):
            raise ProblemError(409, entry.problem, found=name)
        weights, model = self.library.weights_of(entry), self.library.model_path(entry)
        if weights is None:
            is_soon = not self.library.matched.is_set()
            raise ProblemError(
                503 if is_soon else 409,
                f"{name}: the dictionary's weights are {'still being looked for' if is_soon else 'not here'}",
                expected=f"a dictionary with the fingerprint {entry.dictionary_fp[:12]}",
                hint="try again in a moment"
                if is_soon
                else "serve the dictionary's directory together with the bundle",
                headers={"Retry-After": "1"} if is_soon else None,
            )
        if model is None:
            raise ProblemError(
                409,
                f"{name}: its model {entry.manifest.model.id!r} is not on this machine",
                hint="download it beforehand, or name its directory with --set server.models=[...]",
            )
        data = entry.bundle.manifest.get("data", {})
        skip = data.get("skip_first")
        return {
            "name": name,
            "path": str(weights.path),
            "layout": weights.layout,
            "chosen": dict(weights.chosen),
            "fingerprint": entry.dictionary_fp,
            "model": str(model),
            "model_name": entry.manifest.model.id,
            "bundle": str(entry.path),
            "model_fingerprint": entry.manifest.model.fingerprint,
            "bos": data.get("packing") if isinstance(data.get("packing"), str) else None,
            "skip_first": skip if isinstance(skip, int) and 0 <= skip <= 64 else 1,
        }

    def prompt(self, asked: Prompt) -> dict[str, Any]:
        """A text as the worker takes it. Raises ProblemError for one that is too long."""
        plain = asked.model_dump(include={"text", "messages"})
        length = len(asked.text or "") + sum(len(message.content) for message in asked.messages or ())
        if length > self._most_characters:
            raise ProblemError(
                413,
                f"the text has {length:,} characters",
                found=length,
                expected=f"at most {self._most_characters:,}",
                hint="shorten it, or raise server.max_prompt",
            )
        return plain | {"most_tokens": MOST_TOKENS}

    async def _ask(self, task: str, body: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        try:
            return (await self.worker.ask(task, body, seconds=seconds)).body
        except WorkerError as error:
            raise problem_of(error) from None

    async def _generation(self, body: dict[str, Any]) -> AsyncGenerator[Event]:
        self.n_streams += 1
        messages = self.worker.stream("steer", body, seconds=SECONDS["steer"])
        try:
            async for message in messages:
                yield Event(message.name if message.kind == "event" else message.kind, message.body)
        except WorkerError as error:
            yield Event("error", problem_of(error).problem)
        finally:
            self.n_streams -= 1
            await messages.aclose()

    def _label(self, hits: list[dict[str, Any]], dictionary: str = "") -> None:
        """Put labels beside features, of a dictionary or of those that they name."""
        wanted: dict[str, set[int]] = {}
        for hit in hits:
            wanted.setdefault(dictionary or hit["dict"], set()).add(hit["feature"])
        known = {name: self._labels(name, sorted(features)) for name, features in wanted.items()}
        for hit in hits:
            hit["label"] = known[dictionary or hit["dict"]].get(hit["feature"])


def problem_of(error: WorkerError) -> ProblemError:
    """What a failed task answers."""
    return ProblemError(error.status, str(error), headers={"Retry-After": "2"} if error.status == 503 else None)


def _edit(edit: EditIn) -> dict[str, Any]:
    plain = edit.model_dump()
    return {"name": plain.pop("dict"), **plain, "unit": edit.unit or UNITS.get(edit.op)}
