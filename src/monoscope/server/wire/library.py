"""What the library holds: dictionaries, runs, and what could not be read."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from monoscope.server.wire.base import Number, Slug, Wire
from monoscope.server.wire.worker import WorkerStatus


class Meta(Wire):
    """What this server is, and what it can do now.

    author: who writes labels and notes here; workspace: why it cannot be used, null while it can
    kept: where that is
    """

    version: str
    schemas: dict[str, int]
    capabilities: Capabilities
    worker: WorkerStatus
    read_only: bool
    author: str
    workspace: str | None
    kept: Kept


class Kept(Wire):
    """Where the server keeps what it is given and what it derives.

    workspace: a path, or the address of a database, its password left out; search: directory of the indexes
    embedder: directory of the model of sentences that was chosen, null for the packaged one or none
    """

    workspace: str
    search: str
    embedder: str | None


class Capabilities(Wire):
    """live: new text can be run; semantic: labels can be searched by meaning; gpu: an accelerator is there."""

    live: bool
    semantic: bool
    gpu: bool


class Stats(Wire):
    """How good a dictionary is; null where it was not measured."""

    fvu: Number = None
    l0: Number = None
    dead_share: Number = None
    ce_recovered: Number = None


class Card(Wire):
    """A dictionary's feature bundle in one view.

    live: the dictionary and its model are at hand, so new text can be run; chat: its tokenizer has a chat template
    n_labels: features with a label, null while the workspace is still being opened
    layer: of the first site it reads, null for places outside the layers
    """

    id: Slug
    name: str
    path: str
    fingerprint: str
    dictionary_fp: str
    model: str | None
    layer: int | None
    reads: list[str]
    writes: list[str]
    wiring: str
    function: str
    k: int | None
    n_features: int
    d_model: int | None
    stats: Stats
    n_tokens: int
    bytes: int
    created: str | None
    live: bool
    chat: bool
    n_labels: int | None


class Broken(Wire):
    """Something that was meant to be read and cannot be, with the reason."""

    id: Slug
    name: str
    path: str
    kind: Literal["bundle", "dictionary", "run"]
    problem: str


class RunCard(Wire):
    """A training run. ``last`` is the newest row of its log; ``dictionaries`` are the bundles made from it."""

    id: Slug
    name: str
    path: str
    state: Literal["running", "finished", "stopped"]
    step: int | None
    tokens: int | None
    total_tokens: int | None
    updated: str | None
    last: dict[str, Number]
    dictionaries: list[Slug]


class Storage(Wire):
    """The disk under the first root, in bytes."""

    path: str
    free: int
    total: int


class Device(Wire):
    """The machine: processors, memory in bytes, and the accelerator if there is one."""

    cpus: int
    memory: int | None
    accelerator: str | None


class Sample(Wire):
    """A dictionary of the bundled model, which any server can make; ``path`` is where it is, or will be."""

    path: str
    is_made: bool


class Library(Wire):
    """Everything found below the paths that were given."""

    dictionaries: list[Card]
    runs: list[RunCard]
    broken: list[Broken]
    roots: list[str]
    truncated: bool
    sample: Sample
    storage: Storage | None
    device: Device


class OpenPath(Wire):
    """What to open: a bundle, a dictionary, a run, or a directory that holds some.

    path: inside an allowed root, or ``hf://org/repo/path@revision`` of what was downloaded from the hub
    """

    path: str = Field(min_length=1, max_length=4096)


class Opened(Wire):
    """What a path added to the library, or what of it was there already.

    without_features: dictionaries there, where no features are described; a job of the kind ``analyze`` does that
    """

    dictionaries: list[Card]
    runs: list[RunCard]
    broken: list[Broken]
    without_features: list[str]


Manifest = dict[str, Any]
