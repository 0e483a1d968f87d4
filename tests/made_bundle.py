"""A feature bundle written by hand: a few features, tokens and sequences whose every match can be counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from monoscope.core.io import fingerprint, write_manifest
from monoscope.features import FeatureBundle
from monoscope.features.schema import CONTEXTS, DETAILS, FEATURES, SCHEMA, VERSION, VOCABULARY
from monoscope.features.vocabulary import text_of

FP = "ab" * 32


def make_bundle(
    path: Path,
    *,
    vocabulary: Sequence[bytes],
    sequences: Sequence[Sequence[int]],
    density: Sequence[float],
    fires: Mapping[int, Mapping[int, float]],
    logits: Mapping[int, Mapping[int, float]],
    contexts: Sequence[tuple[int, int, int, int, int, int]],
    directions: np.ndarray | None = None,
    dictionary_fp: str = FP,
) -> FeatureBundle:
    """Write a bundle. Every feature's tokens with their share, its logit effects (negative: suppressed), and contexts
    as (feature, interval, sequence, start, stop, strongest position), sorted by feature."""
    path.mkdir(parents=True)
    (path / "contexts").mkdir()
    n = len(density)
    pq.write_table(_table(FEATURES, n, {"feature": range(n), "density": density}), path / "features.parquet")
    raised = [{t: v for t, v in logits.get(i, {}).items() if v > 0} for i in range(n)]
    lowered = [{t: v for t, v in logits.get(i, {}).items() if v < 0} for i in range(n)]
    details = {
        "feature": range(n),
        "token_ids": [list(fires.get(i, {})) for i in range(n)],
        "token_share": [list(fires.get(i, {}).values()) for i in range(n)],
        "pos_tokens": [list(row) for row in raised],
        "pos_values": [list(row.values()) for row in raised],
        "neg_tokens": [list(row) for row in lowered],
        "neg_values": [list(row.values()) for row in lowered],
    }
    pq.write_table(_table(DETAILS, n, details), path / "details.parquet")
    names = ("feature", "interval", "seq", "start", "stop", "max_pos")
    columns = {name: [row[i] for row in contexts] for i, name in enumerate(names)}
    pq.write_table(_table(CONTEXTS, len(contexts), columns), path / "contexts" / "00000.parquet")
    words = {
        "id": range(len(vocabulary)),
        "bytes": list(vocabulary),
        "text": [text_of(token) for token in vocabulary],
        "special": [False] * len(vocabulary),
    }
    pq.write_table(_table(VOCABULARY, len(vocabulary), words), path / "vocab.parquet")
    longest = max(map(len, sequences))
    tokens = np.zeros((len(sequences), longest), np.uint32)
    for i, row in enumerate(sequences):
        tokens[i, : len(row)] = row
    length = np.array([len(row) for row in sequences], np.uint16)
    stored = {"tokens": tokens, "length": length, "doc": np.arange(len(sequences), dtype=np.uint32)}
    save_file(stored, path / "sequences.safetensors")
    if directions is not None:
        norm = np.linalg.norm(directions, axis=1).astype(np.float32)
        save_file({"W_dec": directions.astype(np.float16), "norm": norm}, path / "decoder.safetensors")
    files = [
        {"path": str(file.relative_to(path)), "bytes": file.stat().st_size, "sha256": "", "rows": 0}
        for file in sorted(path.rglob("*"))
        if file.is_file()
    ]
    width = 0 if directions is None else directions.shape[1]
    dictionary = {
        "fingerprint": dictionary_fp,
        "n_features": n,
        "d_model": width,
        "reads": [],
        "writes": ["1.resid_post"],
    }
    body: dict[str, Any] = {
        "dictionary": dictionary | {"wiring": "autoencoder", "function": "topk", "k": 1},
        "model": {"id": "made", "vocab_size": len(vocabulary)},
        "data": {}, "analysis": {}, "stats": {}, "intervals": {}, "files": files,
    }  # fmt: skip
    write_manifest(path, SCHEMA, VERSION, body | {"fingerprint": fingerprint([body, str(path)])})
    return FeatureBundle.open(path)


def _table(schema: pa.Schema, n: int, given: Mapping[str, Any]) -> pa.Table:
    """A table of the schema's columns; those not given are zero, or empty."""
    columns = []
    for field in schema:
        empty = [] if pa.types.is_list(field.type) else False if pa.types.is_boolean(field.type) else 0
        columns.append(pa.array(list(given.get(field.name, [empty] * n)), field.type))
    return pa.Table.from_arrays(columns, schema=schema)
