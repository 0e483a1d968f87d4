"""A feature bundle of what another tool's files say.

Tokens are the texts that occur, numbered in that order; each distinct window is a sequence and a document of its own.
Which interval an example belongs to, its rank and its twins are settled anew, by this library's rule: files of this
kind are known with bins and duplicates that are wrong. The examples that a file marks as its strongest are those of
interval 0 here too; without marks, the strongest are. On which tokens a feature fires, and in how many sequences, is
counted on the examples, which are all of the text that there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monoscope.core.errors import DataError
from monoscope.features.bundle import FeatureBundle
from monoscope.features.collectors.selection import NEGATIVE, RULE, TOP, ContextTable
from monoscope.features.collectors.tokens import SHOWN
from monoscope.features.columns import Columns, Ragged, offsets_of
from monoscope.features.corpus import Corpus
from monoscope.features.exchange.described import Bars, Described, Example
from monoscope.features.records import Explanation
from monoscope.features.schema import DETAILS
from monoscope.features.settings import Analysis
from monoscope.features.vocabulary import Vocabulary
from monoscope.features.writer import write_bundle

MOST_FEATURES = 2**24
UNKNOWN = (
    "p999_act", "mean_act", "std_act", "dec_norm", "enc_norm", "enc_dec_cos", "first_pos_share", "logit_kurtosis",
)  # fmt: skip


def assemble(
    out: Path, features: Iterable[Described], about: Mapping[str, Any], *, force: bool = False
) -> FeatureBundle:
    """Write a bundle and open it.

    about: ``dictionary``, ``model`` and ``data`` of the manifest, as far as they are known

    Features that the files leave out are there, and dead. Raises DataError for a feature that comes twice.
    """
    made = _Assembly(Analysis())
    for feature in features:
        made.add(feature)
    n = max(int(about.get("dictionary", {}).get("n_features") or 0), made.highest + 1)
    if not n:
        raise DataError("there are no features in these files")
    columns, contexts = made.columns(n), made.contexts()
    write_bundle(
        out,
        columns=columns,
        contexts=contexts,
        corpus=made.corpus(),
        vocabulary=made.vocabulary(),
        decoder=None,
        facts=_facts(about, n, columns, made),
        force=force,
        explanations=made.explanations,
    )
    return FeatureBundle.open(out)


class _Assembly:
    """What is known so far, with texts as numbers."""

    def __init__(self, config: Analysis) -> None:
        self.config = config
        self.ids: dict[str, int] = {}
        self.windows: dict[tuple[int, ...], int] = {}
        self.features: dict[int, dict[str, Any]] = {}
        self.rows: list[tuple[Any, ...]] = []
        self.explanations: list[Explanation] = []

    @property
    def highest(self) -> int:
        """Largest feature number; -1 for none."""
        return max(self.features, default=-1)

    def add(self, feature: Described) -> None:
        """Take in a feature."""
        if not 0 <= feature.index < MOST_FEATURES:
            raise DataError(f"{feature.index} is no number of a feature")
        if feature.index in self.features:
            raise DataError(f"feature {feature.index} comes twice in these files")
        reach = max((abs(example.max_act) for example in feature.examples), default=0.0)
        top = max(feature.max_act or 0.0, reach)
        firing = [example for example in feature.examples if example.max_act != 0]
        self.features[feature.index] = {
            "max_act": feature.max_act if feature.max_act is not None else top,
            "density": feature.density,
            "is_dead": not firing and not feature.density,
            "pos": self._tokens(feature.promoted),
            "neg": self._tokens(feature.suppressed),
            "act": feature.acts,
            "logit": feature.logits,
            "n_sequences": len({example.tokens for example in firing}),
            "fires_on": self._fires_on(firing),
            "edges": top * np.linspace(1, 0, self.config.intervals + 1),
        }
        self._contexts(feature, top)
        for number, said in enumerate(feature.explanations):
            id = f"{feature.index}-{number}"
            self.explanations.append(
                Explanation(feature.index, id, said.text, said.method, said.model, scores=said.scores)
            )

    def _tokens(self, tokens: Iterable[tuple[str, float]]) -> list[tuple[int, float]]:
        return [(self._id(text), value) for text, value in tokens]

    def _fires_on(self, firing: Iterable[Example]) -> list[tuple[int, float, float]]:
        """Tokens on which a feature fires in examples, the most frequent first: their shares, and means."""
        found: dict[int, list[float]] = {}
        for example in firing:
            for place in np.flatnonzero(example.acts):
                found.setdefault(self._id(example.tokens[place]), []).append(float(example.acts[place]))
        total = sum(map(len, found.values()))
        often = sorted(found.items(), key=lambda item: -len(item[1]))[:SHOWN]
        return [(token, len(values) / total, sum(values) / len(values)) for token, values in often]

    def _id(self, text: str) -> int:
        return self.ids.setdefault(text, len(self.ids))

    def _contexts(self, feature: Described, top: float) -> None:
        examples = sorted(feature.examples, key=lambda example: -abs(example.max_act))
        marked = {id(example) for example in examples if example.is_top}
        if not marked:
            marked = {id(example) for example in examples[: self.config.top] if example.max_act != 0}
        groups: dict[int, list[Example]] = {}
        for example in examples:
            if not example.tokens:
                continue
            groups.setdefault(self._interval(example, top, id(example) in marked), []).append(example)
        for interval, members in sorted(groups.items()):
            seen: dict[tuple[int, ...], int] = {}
            for rank, example in enumerate(members):
                ids = tuple(map(self._id, example.tokens))
                twin = seen.setdefault(ids, rank)
                sequence = self.windows.setdefault(ids, len(self.windows))
                self.rows.append((feature.index, interval, rank, example, sequence, -1 if twin == rank else twin))

    def _interval(self, example: Example, top: float, is_top: bool) -> int:
        if example.max_act == 0:
            return NEGATIVE
        if is_top:
            return TOP
        n = self.config.intervals
        return min(n, max(1, 1 + int(n * (1 - abs(example.max_act) / top))))

    def columns(self, n: int) -> Columns:
        """Columns of all features; what the files do not say is unknown or empty."""
        known = [self.features.get(i) for i in range(n)]

        def scalar(name: str, other: float) -> np.ndarray:
            values = [other if row is None or row[name] is None else row[name] for row in known]
            return np.array(values, np.float32)

        unknown = np.full(n, np.nan, np.float32)
        tokens = [[] if row is None else row["fires_on"] for row in known]
        density = scalar("density", 0.0)
        scalars = {
            "n_fired": np.zeros(n, np.uint64),
            "density": density,
            "n_sequences": scalar("n_sequences", 0).astype(np.uint32),
            "max_act": scalar("max_act", 0.0),
            "is_dead": np.array([row is None or row["is_dead"] for row in known]),
            "top_token": np.array([own[0][0] if own else 0 for own in tokens], np.uint32),
            "top_token_share": np.array([own[0][1] if own else 0.0 for own in tokens], np.float32),
            **dict.fromkeys(UNKNOWN, unknown),
            "logit_max": np.array([_first(row, "pos") for row in known], np.float32),
            "logit_min": np.array([_first(row, "neg") for row in known], np.float32),
        }
        lists: dict[str, Ragged] = {}
        for place, (name, dtype) in enumerate((("ids", np.uint32), ("share", np.float32), ("mean_act", np.float32))):
            lists[f"token_{name}"] = _ragged([[row[place] for row in own] for own in tokens], dtype)
        for name in ("pos", "neg"):
            pairs = [[] if row is None else row[name] for row in known]
            lists[f"{name}_tokens"] = _ragged([[token for token, _ in own] for own in pairs], np.uint32)
            lists[f"{name}_values"] = _ragged([[value for _, value in own] for own in pairs], np.float32)
        for name in ("act", "logit"):
            bars: list[Bars | None] = [None if row is None else row[name] for row in known]
            lists[f"{name}_edges"] = _ragged([[] if b is None else b.edges for b in bars], np.float32)
            lists[f"{name}_counts"] = _ragged([[] if b is None else np.rint(b.counts) for b in bars], np.uint64)
        alive = [row is not None and not row["is_dead"] for row in known]
        edges = [row["edges"] if row is not None and live else [] for row, live in zip(known, alive, strict=True)]
        lists["interval_edges"] = _ragged(edges, np.float32)
        lists["interval_share"] = _ragged(
            [[np.nan] * self.config.intervals if live else [] for live in alive], np.float32
        )
        for column in DETAILS:
            if column.name != "feature" and column.name not in lists:
                lists[column.name] = _ragged([[]] * n, column.type.value_type.to_pandas_dtype())
        return Columns(scalars, lists)

    def contexts(self) -> ContextTable:
        """All examples, in the order of a bundle."""
        rows = sorted(self.rows, key=lambda row: row[:3])
        examples: list[Example] = [row[3] for row in rows]
        places = [np.flatnonzero(example.acts) for example in examples]
        nothing = np.zeros(len(rows) + 1, np.int64)

        def column(number: int, dtype: type) -> np.ndarray:
            return np.array([row[number] for row in rows], dtype)

        return ContextTable(
            column(0, np.int32),
            column(1, np.int8),
            column(2, np.uint16),
            np.array([example.max_act for example in examples], np.float32),
            np.array([example.max_pos for example in examples], np.uint16),
            column(4, np.uint32),
            np.zeros(len(rows), np.uint16),
            np.array([len(example.tokens) for example in examples], np.uint16),
            column(5, np.int32),
            _ragged(places, np.uint16),
            _ragged([example.acts[place] for example, place in zip(examples, places, strict=True)], np.float32),
            Ragged(np.zeros(0, np.uint16), nothing),
            Ragged(np.zeros(0, np.float32), nothing),
        )

    def corpus(self) -> Corpus:
        """The distinct windows."""
        out = Corpus()
        width = max(map(len, self.windows), default=1)
        tokens = np.zeros((len(self.windows), width), np.uint32)
        lengths = np.array([len(window) for window in self.windows], np.int64)
        for row, window in zip(tokens, self.windows, strict=True):
            row[: len(window)] = window
        if len(tokens):
            out.add(tokens, lengths, None)
        return out

    def vocabulary(self) -> Vocabulary:
        """The texts."""
        text = tuple(self.ids)
        return Vocabulary(tuple(token.encode("utf-8", "surrogateescape") for token in text), text, (False,) * len(text))


def _first(row: dict[str, Any] | None, name: str) -> float:
    return row[name][0][1] if row is not None and row[name] else np.nan


def _ragged(lists: list[Any], dtype: Any) -> Ragged:
    values = np.concatenate([np.zeros(0), *(np.asarray(own, np.float64) for own in lists)]).astype(dtype)
    return Ragged(values, offsets_of(np.array([len(own) for own in lists])))


def _facts(about: Mapping[str, Any], n: int, columns: Columns, made: _Assembly) -> dict[str, Any]:
    dictionary = {
        "fingerprint": None, "wiring": "unknown", "function": "unknown", "d_model": None, "k": None,
        "reads": [], "writes": [], "source": None, "license": None,
        **about.get("dictionary", {}), "n_features": n,
    }  # fmt: skip
    model = {
        "id": None, "revision": None, "fingerprint": None, "tokenizer": None, "tokenizer_revision": None,
        "vocab_size": len(made.ids), "n_layers": None, "d_model": None, "dtype": None, **about.get("model", {}),
    }  # fmt: skip
    data = {
        "dataset": None, "revision": None, "split": None, "n_tokens": 0, "n_sequences": len(made.windows),
        "context_length": max(map(len, made.windows), default=0), "packing": None, "skip_first": None, "seed": None,
        "source": None, **about.get("data", {}),
    }  # fmt: skip
    config = made.config
    return {
        "license": None,
        "cite": None,
        "dictionary": dictionary,
        "model": model,
        "data": data,
        "analysis": {"config": {"imported": about.get("format")}, "config_hash": None},
        "intervals": {
            "n": config.intervals,
            "per_interval": config.per_interval,
            "top": config.top,
            "random": 0,
            "negative": config.negative,
            "rule": RULE,
        },
        "stats": {
            "fvu": None,
            "l0": None,
            "dead_share": float(columns.scalars["is_dead"].mean()),
            "ce_recovered": None,
        },
        "inputs": [{"kind": str(about.get("format")), "fingerprint": None}],
    }
