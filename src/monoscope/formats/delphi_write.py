"""Writing delphi's latent cache, whose files ``formats.delphi`` describes, from encoded text.

write_cache(encoded(dictionary, source), "latents", "layers.10", CacheSettings(model_name="..."))
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.config import Config
from monoscope.core.errors import CannotHold, ConfigError, DataError, MismatchError
from monoscope.core.io import output_directory, write_json
from monoscope.core.progress import progress
from monoscope.core.tensors import write_tensors
from monoscope.dictionaries import Dictionary
from monoscope.formats.delphi import CONFIG
from monoscope.formats.layout import Receipt
from monoscope.harvest.source import ActivationSource

LEAST = 1e-5
"""Entries no larger than this are left out."""

_MODULE = re.compile(r"\w[\w.-]*")
_RECORD = np.dtype([("row", "<u4"), ("position", "<u4"), ("feature", "<u4"), ("value", "<f2")])


class CacheSettings(Config):
    """What ``config.json`` of a module says: the text, the model, and how it was read."""

    dataset_repo: str = ""
    dataset_split: str = "train"
    dataset_name: str = ""
    dataset_column: str = "text"
    batch_size: int = 32
    cache_ctx_len: int = 256
    n_tokens: int = 0
    n_splits: int = 5
    model_name: str = ""


def boundaries(n_features: int, n_splits: int) -> list[tuple[int, int]]:
    """First and last feature of every shard. Raises ConfigError for more shards than features."""
    if not 1 <= n_splits <= n_features:
        raise ConfigError(f"{n_features} features are cut into 1 to {n_features} shards, found {n_splits}")
    ends = torch.linspace(0, n_features, n_splits + 1).long().tolist()
    return [(a, b - 1) for a, b in pairwise(ends)]


def encoded(dictionary: Dictionary, source: ActivationSource) -> Iterator[tuple[Int[Tensor, "rows ctx"], Acts]]:
    """Tokens and activations of whole sequences, as ``write_cache`` takes them; tokens that do not count have none."""
    for batch in source:
        if batch.tokens is None or batch.tokens.ndim != 2:
            raise MismatchError("a latent cache keeps whole sequences with their tokens, and the source has neither")
        with torch.no_grad():
            acts = dictionary.encode(dictionary.gather(batch)[0])
        if acts.values.ndim != 3:
            raise MismatchError("a latent cache has one activation for each token and feature, and this has several")
        if batch.mask is not None:
            acts = Acts(acts.values * batch.mask[..., None], acts.n_features, acts.indices)
        yield batch.tokens, acts


def write_cache(
    batches: Iterable[tuple[Int[Tensor, "rows ctx"], Acts]],
    directory: Path,
    module: str,
    settings: CacheSettings,
    *,
    with_tokens: bool = True,
    force: bool = False,
) -> Receipt:
    """Write the activations of one module, ``<directory>/<module>/``, from batches of tokens and ``Acts [rows, ctx]``.

    ``settings.n_splits`` is how many shards there are; its ``n_tokens`` and ``cache_ctx_len`` are filled in from what
    comes. Entries wait on disk until their shard is complete, so that memory holds one shard at most. Raises CannotHold
    for a value beyond fp16.
    """
    if not _MODULE.fullmatch(module):
        raise ConfigError(f"a module is named by its path, such as 'layers.10'; found {module!r}")
    with output_directory(Path(directory) / module, force=force) as partial:
        spill = _Spill(partial, settings.n_splits)
        with progress("caching activations", settings.n_tokens or None, "tokens") as bar:
            for tokens, acts in batches:
                spill.add(tokens, acts)
                bar.advance(tokens.numel())
        if not spill.tokens:
            raise DataError("there is nothing to write: no batch came")
        files = spill.finish(with_tokens)
        filled = settings.model_copy(update={"n_tokens": spill.n_tokens, "cache_ctx_len": spill.ctx})
        write_json(partial / CONFIG, filled.to_dict())
    steps = ["activations rounded to fp16", f"features cut into {len(files)} shards"]
    return Receipt("delphi", [f"{module}/{name}" for name in (*files, CONFIG)], steps)


class _Spill:
    """Entries on their way to shards: each waits in a file of its shard's own."""

    def __init__(self, directory: Path, n_splits: int) -> None:
        self.directory, self.n_splits = directory, n_splits
        self.shards: list[tuple[int, int]] = []
        self.tokens: list[Tensor] = []
        self.rows = self.ctx = self.n_tokens = 0

    def add(self, tokens: Tensor, acts: Acts) -> None:
        """One batch more."""
        if not self.tokens:
            self.shards, self.ctx = boundaries(acts.n_features, self.n_splits), tokens.shape[1]
            self.n_features = acts.n_features
        if tokens.shape[1] != self.ctx or tokens.shape != acts.values.shape[:-1] or acts.n_features != self.n_features:
            raise MismatchError(
                f"a latent cache has rows of one length: tokens {list(tokens.shape)} and activations "
                f"{list(acts.values.shape)} of {acts.n_features} features came after rows of {self.ctx} tokens and "
                f"{self.n_features} features"
            )
        token, features, values = (part.cpu() for part in acts.coo())
        order = torch.from_numpy(np.lexsort((features.numpy(), token.numpy())))
        token, features, values = token[order], features[order], values[order].float()
        self._check(values, features)
        keep = values.abs() > LEAST
        token, features, values = token[keep], features[keep], values[keep]
        records = np.empty(len(token), _RECORD)
        records["row"], records["position"] = token // self.ctx + self.rows, token % self.ctx
        records["value"] = values.half().numpy()
        shard = torch.bucketize(features, torch.tensor([last for _, last in self.shards])).numpy()
        for number in np.unique(shard).tolist():
            mine = shard == number
            part = records[mine]
            part["feature"] = features.numpy()[mine] - self.shards[number][0]
            with self._waiting(number).open("ab") as file:
                part.tofile(file)
        self.tokens.append(tokens.cpu().long())
        self.rows += len(tokens)
        self.n_tokens += tokens.numel()

    def _check(self, values: Tensor, features: Tensor) -> None:
        bad = ~values.half().isfinite()
        if bad.any():
            first = int(bad.nonzero()[0])
            raise CannotHold(
                f"feature {int(features[first])} has an activation of {float(values[first]):g}, and a latent cache "
                "holds fp16, up to 65504"
            )

    def _waiting(self, number: int) -> Path:
        return self.directory / f".{number}.waiting"

    def finish(self, with_tokens: bool) -> list[str]:
        """Make the shards of what waits."""
        names, tokens = [], torch.cat(self.tokens)
        for number, (first, last) in enumerate(self.shards):
            waiting = self._waiting(number)
            records = np.fromfile(waiting, _RECORD) if waiting.exists() else np.empty(0, _RECORD)
            waiting.unlink(missing_ok=True)
            locations = np.stack([records["row"], records["position"], records["feature"]], axis=1)
            fits = len(locations) == 0 or int(locations.max()) < 2**16
            found = {
                "locations": torch.from_numpy(locations.astype(np.uint16 if fits else np.uint32)),
                "activations": torch.from_numpy(records["value"].astype(np.float16)),
            }
            names.append(f"{first}_{last}.safetensors")
            write_tensors(self.directory / names[-1], found | ({"tokens": tokens} if with_tokens else {}))
        return names
