"""Opened: a dictionary found in somebody's files. Headers and configurations were read, numbers were not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monoscope.core.errors import ConfigError, DataError, UserError
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.dictionaries.saved import assemble
from monoscope.formats.lazy import Lazy


@dataclass(frozen=True)
class About:
    """What is known of a dictionary beside its weights; None where nobody said.

    where: the reference it was opened from; entry: which of a set; files: those its weights and settings come from
    model, revision: the language model it was trained on, by its hub id; library: what wrote it, with its version
    prepend_bos, context_length, skip_first: how the text was read, and how many positions of a sequence were left out
    published: what its makers measured, by name: l0, fvu, ce_recovered
    origins: where each setting comes from, by its name: "cfg.json", "the shape of W_enc", "the name of the repository"
    inferred: what no file says and was supplied, in words; warnings: what the user should know; chosen: open rules
    trained: how it was trained, where files say: text, tokens, recipe
    """

    where: str = ""
    entry: str = ""
    files: tuple[str, ...] = ()
    model: str | None = None
    revision: str | None = None
    library: str | None = None
    prepend_bos: bool | None = None
    context_length: int | None = None
    skip_first: int | None = None
    published: Mapping[str, float] = field(default_factory=dict)
    license: str | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    inferred: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    chosen: Mapping[str, str] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The table of what is known, without what is not."""
        plain = dataclasses.asdict(self)
        return {name: _plain(value) for name, value in plain.items() if value not in (None, "", (), {})}


@dataclass(frozen=True)
class Opened:
    """A dictionary in somebody's files.

    table: what ``dictionaries.saved`` keeps as configuration: wiring, function, reads, writes, widths, acts_scale,
    provenance; in terms of the canonical form
    tensors: the weights by their names in the dictionary's ``state_dict``, in the canonical orientation, unread
    evidence: why the layout was recognized
    """

    layout: str
    table: Mapping[str, Any]
    tensors: Mapping[str, Lazy]
    about: About = About()
    evidence: str = ""

    def dictionary(self, dtype: torch.dtype = torch.float32) -> Dictionary:
        """The dictionary, its weights read, ready for inference. Raises DataError for weights that cannot be meant."""
        where = f"{self.about.where} ({self.layout})" if self.about.where else self.layout
        table = {"acts_scale": 1.0, **self.table}
        if "provenance" not in table:
            table["provenance"] = self._provenance()
        with understood(where):
            return assemble(table, self.tensors, where, dtype)

    def _provenance(self) -> dict[str, Any]:
        """What later stages look for: the model and how it was read, and where the weights come from."""
        about = self.about
        source: dict[str, Any] = {}
        if about.model is not None:
            source["model"] = {"name": about.model} | ({"revision": about.revision} if about.revision else {})
        if about.context_length is not None:
            source["context"] = about.context_length
        if about.prepend_bos is not None:
            source["bos"] = "window" if about.prepend_bos else "none"
        if about.skip_first is not None:
            source["skip"] = {"first": about.skip_first}
        opened = {"layout": self.layout, **about.to_dict()}
        return {"opened": opened} | ({"source": source} if source else {})

    def direction(self, feature: int, site: Site | str | None = None) -> Float[Tensor, "*site d"]:
        """What a feature writes per unit of activation, read alone; at one site, or at all that it writes.

        Raises UserError for a feature there is not, and where what a feature writes depends on what it reads.
        """
        n, kind = self.n_features, self.table["wiring"]["kind"]
        if not 0 <= feature < n:
            raise UserError(f"there is no feature {feature}: the dictionary has {n}, which count from 0")
        if kind == "molt":
            raise UserError("a feature of a MOLT is a transform: what it writes depends on what it reads")
        writes = [Site.parse(name) for name in self.table["writes"]]
        wanted = None if site is None else Site.parse(site)
        if wanted is not None and wanted not in writes:
            raise UserError(f"the dictionary does not write {wanted}; it writes {', '.join(map(str, writes))}")
        if kind == "cross_layer":
            layer, own = divmod(feature, int(self.table["wiring"]["n_features"]))
            rows = self.tensors[f"W_dec.{layer}"].rows([own])[0]
            rows = torch.cat([rows.new_zeros(layer, rows.shape[-1]), rows])
        elif kind == "crosscoder":
            rows = self.tensors["W_dec"].narrow(1, feature, feature + 1).read()[:, 0]
        else:
            return self.tensors["W_dec"].rows([feature])[0]
        return rows if wanted is None else rows[writes.index(wanted)]

    @property
    def n_features(self) -> int:
        """Number of features, of all layers."""
        wiring = self.table["wiring"]
        if "n_features" not in wiring:
            return self.tensors["W_dec"].shape[-2]
        layers = len(self.table["reads"]) if wiring["kind"] == "cross_layer" else 1
        return int(wiring["n_features"]) * layers

    def describe(self) -> dict[str, Any]:
        """What is known without reading a number: the layout, sites, sizes, function, and where each comes from."""
        wiring, function = dict(self.table["wiring"]), dict(self.table["function"])
        settings = {name: value for name, value in wiring.items() if value not in (None, False, "none")}
        scale = self.table.get("acts_scale", 1.0)
        dtypes = sorted({str(lazy.dtype).removeprefix("torch.") for lazy in self.tensors.values()})
        return {
            "kind": "dictionary",
            "layout": self.layout,
            "evidence": self.evidence or None,
            "reads": list(self.table["reads"]),
            "writes": list(self.table["writes"]),
            "features": self.n_features,
            "widths": dict(self.table["widths"]),
            "wiring": settings,
            "function": function,
            "acts_scale": scale,
            "dtypes": dtypes,
            "parameters": sum(math.prod(lazy.shape) for lazy in self.tensors.values()),
            **self.about.to_dict(),
        }


@contextmanager
def understood(where: str) -> Iterator[None]:
    """Turns what a value of another kind than any library writes leads to into a DataError that names its place.

    Settings of other people are tables of anything; layouts check those that matter, and trip over the rest.
    """
    try:
        yield
    except UserError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        raise DataError(
            f"{where} holds a value that no library writes there ({type(error).__name__}: {error}); compare its "
            "configuration with one that is whole"
        ) from error


def check_tensors(found: Mapping[str, Any], needed: set[str], allowed: set[str], where: str) -> None:
    """Raises DataError for tensors that are missing, and for ones no rule is known for."""
    if missing := sorted(needed - found.keys()):
        raise DataError(f"{where} lacks {', '.join(missing)}; it holds {', '.join(sorted(found)[:20]) or 'nothing'}")
    if unknown := sorted(found.keys() - needed - allowed):
        raise DataError(f"{where} holds {', '.join(unknown[:10])}, for which no rule is known: refused")


def check_shape(lazy: Lazy, shape: tuple[int | None, ...], name: str, where: str) -> None:
    """Raises DataError for a tensor of another shape; None stands for any length."""
    fits = len(lazy.shape) == len(shape) and all(n in (None, m) for n, m in zip(shape, lazy.shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise DataError(f"{name} in {where} is {list(lazy.shape)}, expected [{wanted}]")


def check_keys(config: Mapping[str, Any], known: set[str], where: str) -> None:
    """Raises ConfigError for settings no rule is known for, which could change what the dictionary does."""
    if unknown := sorted(config.keys() - known):
        raise ConfigError(f"{where} sets {', '.join(unknown[:10])}, for which no rule is known: refused")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
