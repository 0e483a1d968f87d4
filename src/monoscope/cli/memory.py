"""Memory that a verb will take, predicted once its model and text are there, and refused where it does not fit.

    peak = what the process holds by then + model as it reads + what the verb adds

What it holds by then is measured, so that only what comes has to be predicted; ``benchmarks/bench_memory.py`` compares
with the peaks of real processes. On a GPU, what is placed there is not counted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from monoscope.cli.configs import AnalyzeConfig, Bounded, HarvestConfig, TrainConfig
from monoscope.core.config import override
from monoscope.core.device import usable
from monoscope.core.errors import ConfigError
from monoscope.core.memory import advice, available, resident
from monoscope.core.ranks import local_rank_and_ranks, rank_and_ranks
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.features.collectors.sample import MAX_ENTRIES, MAX_TOKENS
from monoscope.harvest import ActivationSource, ActivationStore
from monoscope.models import LanguageModel
from monoscope.training.memory import FLOAT, firing, need_of, training_bytes

HARVEST = {"shard_tokens": 1024, "windows_per_batch": 1}
TRAIN = {
    "training.shuffle_tokens": 4096,
    "training.batch_tokens": 512,
    "recipe.wiring.n_features": 256,
    "windows_per_batch": 1,
}
ANALYZE = {"windows_per_batch": 1, "analysis.tokens": 10_000}
"""Settings of each verb that memory depends on, and how far lowering them makes sense."""
SLACK = 80e6  # bytes of libraries that load, and of what the allocator keeps, once work begins
STORED = {"fp32": 4, "bf16": 2, "fp16": 2}
HARVEST_COPIES = 3  # of a shard: batches, joined, as bytes of its file
PER_FEATURE = 12_000  # bytes of an analysis: 1024 bins of 4, the tokens it fires on, columns of the bundle
PER_CANDIDATE = 150  # bytes of a context that may be shown
CANDIDATES = 130  # of a feature, at most
PER_ENTRY = 80  # bytes of what fires in the sampled sequences: kept, sorted by feature, and paired

B = TypeVar("B", bound=Bounded)


def check(settings: B, added: Callable[[B], float], least: Mapping[str, int], *, as_json: bool) -> None:
    """Say what a run will take and what there is. Raises ConfigError, with advice, where that is too little.

    added: bytes that a run with some settings takes on top of what this process holds now
    least: settings that would help when lowered, as keys of the configuration, and how far that makes sense
    """
    held, here = resident(), local_rank_and_ranks()[1]  # processes that share this machine
    room = held + available() / here if settings.memory_gb is None else settings.memory_gb * 1e9

    def needed(changes: Mapping[str, int]) -> float:
        changed = override(settings.to_dict(), (f"{name}={value}" for name, value in changes.items()))
        return held + SLACK + added(type(settings).from_dict(changed))

    try:
        peak = needed({})
    except ConfigError:
        return  # what does not go together, the verb itself says
    if rank_and_ranks()[0] == 0:  # it speaks for all processes
        known = json.dumps({"memory": {"predicted": round(peak), "room": round(room)}})
        print(known if as_json else f"memory: about {peak / 1e9:.2f} GB of {room / 1e9:.2f} GB", file=sys.stderr)
    if peak > room:
        bound = (
            f"{room / 1e9:.2f} GB are free" if settings.memory_gb is None else f"memory_gb is {settings.memory_gb:g}"
        )
        table = settings.to_dict()
        lowered = {name: (value, low) for name, low in least.items() if (value := _value(table, name)) is not None}
        raise ConfigError(
            f"this takes about {peak / 1e9:.2f} GB of memory, and {bound}; {advice(needed, lowered, room)}; "
            f"memory_gb = {peak / 1e9 + 0.1:.1f} goes on as it is"
        )


def _value(table: Any, name: str) -> int | None:
    """A number in a table by its dotted name; None where there is none."""
    for key in name.split("."):
        table = table.get(key) if isinstance(table, Mapping) else None
    return table if isinstance(table, int) else None


def of_harvest(settings: HarvestConfig, lms: Mapping[str, LanguageModel], source: ActivationSource) -> float:
    """Bytes that a harvest adds."""
    shard = settings.shard_tokens * sum(source.widths.values()) * STORED[settings.store_dtype]
    return _reading(settings, lms.values(), source.widths) + HARVEST_COPIES * shard


def of_training(settings: TrainConfig, lm: LanguageModel | None, source: ActivationSource) -> float:
    """Bytes that training adds."""
    runs = [
        run.model_copy(update={"reads": (reads := run.reads or source.sites), "writes": run.writes or reads})
        for run in settings.runs().values()
    ]
    features = settings.parallel.features
    data = max(1, rank_and_ranks()[1] // features)
    needs = [need_of(run, source.widths, data=data, features=features) for run in runs]
    if usable(settings.training.device).type != "cpu":  # here are only what is written and what waits
        needs = [replace(need, resident=0.0, step=need.resident) for need in needs]
    read = _reading(settings, [] if lm is None else [lm], source.widths, readers=features)
    is_flat = isinstance(source, ActivationStore) and "documents" not in source.manifest["tensors"]
    training = settings.training
    shuffled = 0 if is_flat else min(training.shuffle_tokens, training.steps * training.batch_tokens)
    return read + training_bytes(needs, shuffled / min(data, settings.parallel.lanes or data), source.widths)


def of_analysis(
    settings: AnalyzeConfig, lms: Mapping[str, LanguageModel], source: ActivationSource, dictionary: Dictionary
) -> float:
    """Bytes that an analysis adds; the dictionary is there already."""
    n, tokens = dictionary.n_features, settings.windows_per_batch * settings.context
    function = dictionary.activation.frozen()
    dense = tokens * n * FLOAT * 2 if function.selection is None else 0
    read = source.n_tokens or 0 if settings.analysis.tokens is None else settings.analysis.tokens
    per_token = firing(function)
    candidates = min(n * CANDIDATES, read * per_token)
    entries = min(MAX_ENTRIES, min(MAX_TOKENS, read) * per_token)
    # Twice, as what is collected lands between the parts of a batch, and the allocator keeps the holes.
    reading = 2 * _reading(settings, lms.values(), source.widths)
    return reading + dense + n * PER_FEATURE + candidates * PER_CANDIDATE + entries * PER_ENTRY


def _reading(settings: Any, lms: Iterable[LanguageModel], widths: Mapping[Site, int], *, readers: int = 1) -> float:
    """Bytes of a batch of windows on its way through the models, one after another, and of what is read.

    readers: processes that each run the models on their rows of it
    """
    tokens = settings.windows_per_batch * settings.context
    widest = max((_per_token(lm) for lm in lms if lm.device.type == "cpu"), default=0.0)
    return tokens * (widest / readers + 2 * FLOAT * sum(widths.values()))


def _per_token(lm: LanguageModel) -> float:
    """Bytes of a token in the widest part of a model: the residual stream in a few copies, and inside of an MLP."""
    config = lm.hf.config
    inner = getattr(config, "intermediate_size", None) or 4 * lm.d_model
    return (4 * lm.d_model + 2 * inner) * lm.dtype.itemsize
