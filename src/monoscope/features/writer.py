"""Writes a feature bundle: a temporary sibling directory, renamed when it is whole; the manifest comes last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Integer
from torch import Tensor

from monoscope.core.io import output_directory, sha256_file, write_manifest, write_tensors, write_text
from monoscope.features.card import card
from monoscope.features.collectors.selection import ContextTable
from monoscope.features.columns import Columns, Ragged
from monoscope.features.corpus import Corpus
from monoscope.features.records import Explanation
from monoscope.features.schema import (
    CONTEXTS,
    DETAILS,
    EXPLANATIONS,
    FEATURES,
    FEATURES_PER_FILE,
    FEATURES_PER_GROUP,
    GROUPS_PER_FILE,
    MINOR,
    OPTIONAL,
    ROWS_PER_GROUP,
    SCHEMA,
    VERSION,
    VOCABULARY,
    bundle_fingerprint,
    contexts_file,
    round_bits,
)
from monoscope.features.vocabulary import Vocabulary

COMPRESSION: dict[str, Any] = {"compression": "zstd", "compression_level": 6}
SOURCES = ("src_pos", "src_val")
VALUES = ("act.list.element", "src_val.list.element")  # float columns whose bytes compress better apart


def write_bundle(
    path: Path,
    *,
    columns: Columns,
    contexts: ContextTable,
    corpus: Corpus,
    vocabulary: Vocabulary,
    decoder: Tensor | None,
    facts: Mapping[str, Any],
    force: bool,
    explanations: Sequence[Explanation] = (),
) -> None:
    """Write all files of a bundle. ``facts`` are the manifest's keys that are not about files.

    Raises OutputError if something stands at ``path``, unless ``force``.
    """
    n_features = len(columns.scalars["n_fired"])
    with output_directory(path, force=force) as directory:
        ids = {"feature": np.arange(n_features, dtype=np.uint32)}
        features = _table(FEATURES, {**ids, **columns.scalars})
        pq.write_table(features, directory / "features.parquet", row_group_size=ROWS_PER_GROUP, **COMPRESSION)
        details = _table(DETAILS, {**ids, **columns.lists})
        _write_in_groups(directory / "details.parquet", details, np.arange(0, n_features + 1))
        rows = {"features.parquet": n_features, "details.parquet": n_features}
        chosen = np.unique(contexts.seq)
        rows |= _write_contexts(directory, contexts, np.searchsorted(chosen, contexts.seq), n_features)
        write_tensors(directory / "sequences.safetensors", corpus.tensors(chosen.astype(np.int64)))
        rows["sequences.safetensors"] = len(chosen)
        _write_vocabulary(directory / "vocab.parquet", vocabulary)
        rows["vocab.parquet"] = len(vocabulary)
        if explanations:
            rows["explanations.parquet"] = _write_explanations(directory / "explanations.parquet", explanations)
        if decoder is not None:
            tensors = {"W_dec": decoder.half(), "norm": decoder.float().norm(dim=1)}
            write_tensors(directory / "decoder.safetensors", tensors)
            rows["decoder.safetensors"] = n_features
        write_text(directory / "README.md", card(facts))
        rows["README.md"] = 0
        files = [
            {
                "path": name,
                "bytes": (directory / name).stat().st_size,
                "sha256": sha256_file(directory / name),
                "rows": n,
            }
            for name, n in sorted(rows.items())
        ]
        body = {
            "schema_minor": MINOR,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "optional": sorted(
                OPTIONAL & {*columns.scalars, *columns.lists, *(SOURCES if len(contexts.src_val.values) else ())}
            ),
            **facts,
            "layout": {
                "features_per_group": FEATURES_PER_GROUP,
                "groups_per_file": GROUPS_PER_FILE,
                "rows_per_group": ROWS_PER_GROUP,
            },
            "files": files,
        }
        write_manifest(directory, SCHEMA, VERSION, {**body, "fingerprint": bundle_fingerprint(body)})


def _table(schema: pa.Schema, columns: Mapping[str, np.ndarray | Ragged]) -> pa.Table:
    assert not columns.keys() - set(schema.names), f"the layout has no column {columns.keys() - set(schema.names)}"
    n = len(columns["feature"])
    arrays = []
    for column in schema:
        values = columns.get(column.name)
        if values is None:
            assert column.name in OPTIONAL, f"column {column.name} is missing"
            arrays.append(pa.nulls(n, column.type))
        elif isinstance(values, Ragged):
            items = pa.array(values.values, column.type.value_type)
            arrays.append(pa.ListArray.from_arrays(pa.array(values.offsets.astype(np.int32)), items))
        else:
            arrays.append(pa.array(values, column.type))
        assert len(arrays[-1]) == n, f"column {column.name} has {len(arrays[-1])} rows, not {n}"
    return pa.table(arrays, schema=schema)


def _write_in_groups(path: Path, table: pa.Table, bounds: np.ndarray) -> None:
    """Write rows ``bounds[f] .. bounds[f + 1]`` of each feature, 128 features to a row group, empty ones included."""
    lists = {f"{column.name}.list.element" for column in table.schema if pa.types.is_list(column.type)}
    floats = [name for name in lists if name in VALUES]
    coded = [name for name in table.schema.names if name in ("interval", "rank", "dup_of")]
    options: dict[str, Any] = {"use_dictionary": coded, "use_byte_stream_split": floats, **COMPRESSION}
    with pq.ParquetWriter(path, table.schema, **options) as writer:
        for first in range(0, len(bounds) - 1, FEATURES_PER_GROUP):
            start, stop = bounds[first], bounds[min(first + FEATURES_PER_GROUP, len(bounds) - 1)]
            writer.write_table(table.slice(start, stop - start), row_group_size=max(1, stop - start))


def _write_contexts(
    directory: Path, contexts: ContextTable, seq: Integer[np.ndarray, " n"], n_features: int
) -> dict[str, int]:
    (directory / "contexts").mkdir()
    bounds = np.searchsorted(contexts.feature, np.arange(n_features + 1))
    rows = {}
    for first in range(0, n_features, FEATURES_PER_FILE):
        mine = bounds[first : first + FEATURES_PER_FILE + 1]
        part = slice(int(mine[0]), int(mine[-1]))
        lists = np.arange(part.start, part.stop)
        act = contexts.act.take(lists)
        sources = (
            {name: getattr(contexts, name).take(lists) for name in SOURCES} if len(contexts.src_val.values) else {}
        )
        table = _table(
            CONTEXTS,
            {
                "feature": contexts.feature[part].astype(np.uint32),
                "seq": seq[part].astype(np.uint32),
                **{
                    name: getattr(contexts, name)[part]
                    for name in ("interval", "rank", "max_act", "max_pos", "start", "stop", "dup_of")
                },
                "act_pos": contexts.act_pos.take(lists),
                "act": Ragged(round_bits(act.values), act.offsets),
                **sources,
            },
        )
        _write_in_groups(directory / contexts_file(first), table, mine - mine[0])
        rows[contexts_file(first)] = len(table)
    return rows


def _write_explanations(path: Path, explanations: Sequence[Explanation]) -> int:
    rows = [asdict(own) for own in sorted(explanations, key=lambda own: own.feature)]
    pq.write_table(pa.Table.from_pylist(rows, schema=EXPLANATIONS), path, **COMPRESSION)
    return len(rows)


def _write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    columns = [
        pa.array(range(len(vocabulary)), pa.uint32()),
        pa.array(vocabulary.bytes, pa.binary()),
        pa.array(vocabulary.text, pa.string()),
        pa.array(vocabulary.special, pa.bool_()),
    ]
    pq.write_table(pa.table(columns, schema=VOCABULARY), path, use_dictionary=False, **COMPRESSION)
