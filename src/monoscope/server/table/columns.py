"""The columns of the table of features: those of a bundle, and those people add; what each means, and may be asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import UInt32

from monoscope.features.drawn import digits
from monoscope.server.wire.dictionary import Column

Kind = Literal["number", "integer", "boolean", "text", "texts"]
ADDED: dict[str, Kind] = {
    "label": "text",
    "label_source": "text",
    "score": "number",
    "tags": "texts",
    "bookmarked": "boolean",
}
TOKENS = {"promotes": "pos_tokens", "suppresses": "neg_tokens", "fires_on": "token_ids"}
"""Asked of the lists of details, and never shown: tokens at the ends of logit effects, and those it fires on."""

HELP = {
    "feature": "Number of the feature",
    "n_fired": "Tokens on which it fires",
    "density": "Share of tokens on which it fires",
    "n_sequences": "Sequences in which it fires",
    "max_act": "Largest activation",
    "p999_act": "99.9th percentile of its activations where it fires",
    "mean_act": "Mean activation where it fires",
    "std_act": "Standard deviation of its activations where it fires",
    "is_dead": "It never fired on the text analyzed",
    "dec_norm": "Norm of its direction in the decoder",
    "enc_norm": "Norm of its direction in the encoder",
    "enc_dec_cos": "Cosine between its directions in encoder and decoder",
    "top_token": "The token on which it fires most often",
    "top_token_share": "Share of its firings on that token",
    "first_pos_share": "Share of its firings on the first position that counts",
    "logit_max": "Largest effect on a token's logit",
    "logit_min": "Most negative effect on a token's logit",
    "logit_kurtosis": "Kurtosis of its effects on logits: large where it speaks of few tokens",
    "best_score": "Best score of an explanation that came with the bundle",
    "cluster": "Cluster of directions",
    "map_x": "Place on the map, across",
    "map_y": "Place on the map, up",
    "label": "The line shown: a person's choice, else the best explanation",
    "label_source": "Where the label is from",
    "score": "Score of the explanation shown",
    "tags": "Tags it carries",
    "bookmarked": "It is among your bookmarks",
    "promotes": "A token among the twenty whose logits it raises most",
    "suppresses": "A token among the twenty whose logits it lowers most",
    "fires_on": "A token among the twenty it fires on most",
}
COMPARE = ("=", "!=", "<", "<=", ">", ">=", "in", "is_null", "not_null")
OPERATORS: dict[Kind, tuple[str, ...]] = {
    "number": COMPARE,
    "integer": COMPARE,
    "boolean": ("=", "!=", "is_null", "not_null"),
    "text": ("=", "!=", "contains", "prefix", "matches", "in", "is_null", "not_null"),
    "texts": ("=", "in", "is_null", "not_null"),
}


@dataclass(frozen=True)
class Scalars:
    """A bundle's scalar columns, ``top_token`` as text, and their kinds; those that are all null are left out."""

    table: pa.Table
    kinds: dict[str, Kind]

    @staticmethod
    def of(features: pa.Table, texts: pa.ChunkedArray) -> Scalars:
        """The columns of ``features.parquet``; ``texts`` are those of the token ids."""
        columns: dict[str, pa.Array | pa.ChunkedArray] = {}
        kinds: dict[str, Kind] = {}
        for field in features.schema:
            column = features.column(field.name)
            if field.name == "top_token":
                column, kind = _texts(column, texts), "text"
            else:
                kind = _kind(field.type)
            if kind is None or (column.null_count == len(column) and field.name != "feature" and len(column)):
                continue
            columns[field.name], kinds[field.name] = column.combine_chunks(), kind
        return Scalars(pa.table(columns), kinds)

    def describe(self) -> list[Column]:
        """Every column that can be shown, sorted or filtered, the added ones included."""
        shown = [self._describe(name) for name in self.kinds]
        added = [
            Column(name=name, type=kind, min=None, max=None, n_null=0, operators=list(OPERATORS[kind]), help=HELP[name])
            for name, kind in ADDED.items()
        ]
        asked = [
            Column(name=name, type="texts", min=None, max=None, n_null=0, operators=["=", "in"], help=HELP[name])
            for name in TOKENS
        ]
        return shown + added + asked

    def _describe(self, name: str) -> Column:
        column, kind = self.table.column(name), self.kinds[name]
        low = high = None
        if kind in ("number", "integer"):
            values = column.drop_null().to_numpy()
            values = values[np.isfinite(values)]
            if len(values):
                low, high = digits(np.array([values.min(), values.max()]))
        return Column(
            name=name,
            type=kind,
            min=low,
            max=high,
            n_null=column.null_count,
            operators=list(OPERATORS[kind]),
            help=HELP.get(name, ""),
        )


def _kind(type_: pa.DataType) -> Kind | None:
    if pa.types.is_boolean(type_):
        return "boolean"
    if pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_floating(type_):
        return "number"
    return "text" if pa.types.is_string(type_) else None


def _texts(ids: pa.ChunkedArray, texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts of token ids; of an id that the vocabulary does not have, null."""
    values = ids.to_numpy()
    if len(values) and values.max() >= len(texts):
        return texts.take(pa.array(values, pa.uint32(), mask=values >= len(texts)))
    return texts.take(ids)


def indices(rows: UInt32[np.ndarray, " n"]) -> pa.Array:
    """Row numbers for Arrow's ``take``; not ``pa.array``, which imports pandas where there is one."""
    return pa.Array.from_buffers(pa.uint32(), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))])
