"""delphi's latent cache: which features fired where, in shards of features. Written by ``formats.delphi_write``.

    <module>/{start}_{end}.safetensors      features start to end, end included
        locations    [n, 3]        (row, position, feature - start); 16 bits where all of them fit, else 32
        activations  [n]           fp16; every entry with |a| > 1e-5, so signs are kept
        tokens       [rows, ctx]   optional, and the same in every shard
    <module>/config.json                    the text, the model, and how much of it was read

Entries are in the order of (row, position, feature). Boundaries are ``linspace(0, F, n_splits + 1)``, truncated. A
module is named by its path, ``layers.10``. The variant without shards is one ``<module>.safetensors``, whose features
count from 0 and whose activations are fp32.

Traps: each shard has integers of its own width. The position has to fit as well. Above 65,504 a value would be infinite
in fp16, and is refused. A shard in which nothing fires is written empty. Rows can be fewer than tokens / ctx.

Source: EleutherAI/delphi ``latents/cache.py``, ``latents/loader.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.errors import DataError, nearest
from monoscope.formats.folder import Folder
from monoscope.formats.layout import Layout
from monoscope.formats.lazy import Lazy
from monoscope.formats.opened import Opened

CONFIG = "config.json"
_SHARD = re.compile(r"(?:(.+)/)?(\d+)_(\d+)\.safetensors")


@dataclass(frozen=True)
class Entries:
    """Activations, one by one, in the order of (row, position, feature); all ``[n]``."""

    rows: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]
    features: Int[Tensor, " n"]
    values: Float[Tensor, " n"]


@dataclass(frozen=True)
class Shard:
    """Features ``start`` to ``stop``, which is not one of them, in one file; stop is None in a file of all features."""

    name: str
    start: int
    stop: int | None


class Delphi(Layout):
    """Recognizes a latent cache, which holds activations and no dictionary."""

    name: ClassVar[str] = "delphi"

    def evidence(self, folder: Folder) -> str | None:
        """A shard, with locations; a file of all features is named by its module alone, and not recognized."""
        first = next((name for name in folder.names() if _SHARD.fullmatch(name)), None)
        if first is None or not {"locations", "activations"} <= {*folder.tensors(first)}:
            return None
        return f"{first} with locations"

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """Raises DataError: there is no dictionary to open."""
        raise DataError(
            f"{folder.name} is a latent cache of delphi: activations, and no dictionary; "
            "monoscope.formats.delphi.open_cache reads it"
        )

    def summary(self, folder: Folder) -> dict[str, Any]:
        """Its modules, from headers and configurations alone."""
        caches = [open_cache(folder, module) for module in modules(folder)]
        return {"kind": "latent cache", "modules": {cache.module or ".": cache.describe() for cache in caches}}


class LatentCache:
    """The activations of one module's features. Opened by ``open_cache``; reads what is asked for.

    module: its path; n_features: as far as shards reach, None in the variant without shards; settings: config.json
    """

    def __init__(self, folder: Folder, module: str, shards: tuple[Shard, ...], settings: dict) -> None:
        self.folder, self.module, self.shards, self.settings = folder, module, shards, settings
        self.n_features = shards[-1].stop

    def describe(self) -> dict[str, Any]:
        """Sizes, the model and the text, without reading an activation."""
        held = [self._tensors(shard) for shard in self.shards]
        tokens = held[0].get("tokens")
        return {
            "features": self.n_features,
            "shards": len(self.shards),
            "activations": sum(tensors["activations"].shape[0] for tensors in held),
            **({} if tokens is None else {"rows": tokens.shape[0], "context": tokens.shape[1]}),
            **{name: value for name, value in self.settings.items() if value not in (None, "", 0)},
        }

    def entries(self, start: int = 0, stop: int | None = None) -> Entries:
        """The activations of features from ``start`` up to ``stop``; shards without any of them are not read."""
        parts = [
            part
            for shard in self.shards
            if (stop is None or shard.start < stop) and (shard.stop is None or start < shard.stop)
            for part in [self._of(shard, start, stop)]
        ]
        empty = torch.empty(0, 4, dtype=torch.float64)
        if not parts:
            return Entries(empty[:, 0].long(), empty[:, 1].long(), empty[:, 2].long(), empty[:, 3].float())
        locations, values = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        order = np.lexsort(locations.T.flip(0).numpy())  # the last key is the first to sort by
        chosen = torch.from_numpy(order)
        rows, positions, features = locations[chosen].unbind(1)
        return Entries(rows, positions, features, values[chosen])

    def _of(self, shard: Shard, start: int, stop: int | None) -> tuple[Int[Tensor, "n 3"], Float[Tensor, " n"]]:
        where, tensors = self.folder.where(shard.name), self._tensors(shard)
        locations, values = tensors["locations"].read().long(), tensors["activations"].read().float()
        locations[:, 2] += shard.start
        top = int(locations[:, 2].max()) if len(locations) else -1
        if shard.stop is not None and top >= shard.stop:
            raise DataError(f"{where} holds feature {top}, and by its name its last one is {shard.stop - 1}")
        if not values.isfinite().all():
            raise DataError(f"{where} holds activations that are not finite")
        keep = locations[:, 2] >= start
        if stop is not None:
            keep &= locations[:, 2] < stop
        return locations[keep], values[keep]

    def _tensors(self, shard: Shard) -> dict[str, Lazy]:
        where, tensors = self.folder.where(shard.name), dict(self.folder.tensors(shard.name))
        if unknown := sorted(tensors.keys() - {"locations", "activations", "tokens"}):
            raise DataError(f"{where} holds {', '.join(unknown)}, for which no rule is known: refused")
        for name in ("locations", "activations"):
            if name not in tensors:
                raise DataError(f"{where} lacks {name}")
        n = tensors["activations"].shape[:1]
        if tensors["locations"].shape != (*n, 3) or tensors["activations"].ndim != 1:
            raise DataError(
                f"{where} has locations {list(tensors['locations'].shape)} and activations "
                f"{list(tensors['activations'].shape)}; [n, 3] and [n] are expected"
            )
        return tensors

    def tokens(self) -> Int[Tensor, "rows ctx"] | None:
        """The tokens that were read; None where they were not kept."""
        tensors = self._tensors(self.shards[0])
        return tensors["tokens"].read().long() if "tokens" in tensors else None

    def acts(self, rows: int | None = None, ctx: int | None = None, n_features: int | None = None) -> Acts:
        """All activations as ``Acts [rows, ctx]``, in the sparse layout.

        Sizes default to those of the tokens, of config.json and of the shards. Raises DataError where they are too
        small, or where nothing says them.
        """
        n_features = n_features or self.n_features
        shape = self._tensors(self.shards[0]).get("tokens")
        rows = rows or (shape.shape[0] if shape is not None else None)
        ctx = ctx or (shape.shape[1] if shape is not None else self.settings.get("cache_ctx_len"))
        entries = self.entries()
        rows = rows or _top(entries.rows)
        if ctx is None or n_features is None:
            raise DataError(
                f"nothing says how {'long rows are' if ctx is None else 'many features'} there are; give it"
            )
        for name, top, n in (
            ("row", _top(entries.rows), rows),
            ("position", _top(entries.positions), ctx),
            ("feature", _top(entries.features), n_features),
        ):
            if top > n:
                raise DataError(f"{self.folder.name} has an activation at {name} {top - 1}, and {n} in all")
        token = entries.rows * ctx + entries.positions
        counts = token.bincount(minlength=rows * ctx)
        slot = torch.arange(len(token)) - (counts.cumsum(0) - counts)[token]
        k = max(1, int(counts.max())) if len(counts) else 1
        values, indices = torch.zeros(rows * ctx, k), torch.zeros(rows * ctx, k, dtype=torch.int64)
        values[token, slot], indices[token, slot] = entries.values, entries.features
        return Acts(values.view(rows, ctx, k), n_features, indices.view(rows, ctx, k))


def _top(numbers: Tensor) -> int:
    return int(numbers.max()) + 1 if len(numbers) else 0


def modules(folder: Folder) -> dict[str, tuple[Shard, ...]]:
    """The modules that a folder holds activations of, with their shards in order; "" is the folder itself."""
    found: dict[str, list[Shard]] = {}
    for name in folder.names():
        if match := _SHARD.fullmatch(name):
            found.setdefault(match[1] or "", []).append(Shard(name, int(match[2]), int(match[3]) + 1))
        elif (
            name.endswith(".safetensors")
            and "/" not in name
            and {"locations", "activations"} <= {*folder.tensors(name)}
        ):
            found[name.removesuffix(".safetensors")] = [Shard(name, 0, None)]
    return {module: tuple(sorted(shards, key=lambda shard: shard.start)) for module, shards in sorted(found.items())}


def open_cache(folder: Folder, module: str | None = None) -> LatentCache:
    """The cache of a module, where several are there. Raises DataError where shards leave gaps or none is there."""
    found = modules(folder)
    if not found:
        raise DataError(f"{folder.name} is no latent cache: it has no {{start}}_{{end}}.safetensors")
    if module is None:
        if len(found) > 1:
            raise DataError(f"{folder.name} holds the caches of {', '.join(found)}; name one")
        module = next(iter(found))
    if module not in found:
        raise DataError(f"{folder.name} has no cache of {module!r}; {nearest(module, found)}")
    shards, expected = found[module], 0
    for shard in shards:
        if shard.start != expected or (shard.stop is not None and shard.stop <= shard.start):
            raise DataError(f"{folder.where(shard.name)} should begin with feature {expected}: shards leave a gap")
        expected = shard.stop or 0
    config = f"{module}/{CONFIG}" if module else CONFIG
    return LatentCache(folder, module, shards, folder.json(config) if folder.has(config) else {})
