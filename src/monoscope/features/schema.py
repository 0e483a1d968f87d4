"""The layout of a feature bundle, version 1: its files, their columns, and the arithmetic that finds a feature in them.

manifest.json          schema, provenance, settings, hashes of the files; written last
features.parquet       one row a feature, scalars: what tables sort and filter
details.parquet        one row a feature, lists
contexts/00000.parquet one row a context, sorted by (feature, interval, rank); a row group is exactly 128 features
sequences.safetensors  the sequences that contexts come from: tokens u32 [S, T], length u16 [S], doc u32 [S]
vocab.parquet          one row a token: id, bytes, text, special
explanations.parquet   one row an explanation that is handed on with the bundle, sorted by feature; absent without any
decoder.safetensors    W_dec f16 [F, d], of several write sites one behind the other; norm f32 [F]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from monoscope.core.io import fingerprint

SCHEMA, VERSION, MINOR = "monoscope.features", 1, 3
FEATURES_PER_GROUP, GROUPS_PER_FILE, ROWS_PER_GROUP = 128, 128, 16384
FEATURES_PER_FILE = FEATURES_PER_GROUP * GROUPS_PER_FILE

FEATURES = pa.schema(
    [
        ("feature", pa.uint32()),
        ("n_fired", pa.uint64()),
        ("density", pa.float32()),
        ("n_sequences", pa.uint32()),
        ("max_act", pa.float32()),
        ("p999_act", pa.float32()),
        ("mean_act", pa.float32()),
        ("std_act", pa.float32()),
        ("is_dead", pa.bool_()),
        ("dec_norm", pa.float32()),
        ("enc_norm", pa.float32()),
        ("enc_dec_cos", pa.float32()),
        ("top_token", pa.uint32()),
        ("top_token_share", pa.float32()),
        ("first_pos_share", pa.float32()),
        ("logit_max", pa.float32()),
        ("logit_min", pa.float32()),
        ("logit_kurtosis", pa.float32()),
        ("best_score", pa.float32()),
        ("cluster", pa.int32()),
        ("map_x", pa.float32()),
        ("map_y", pa.float32()),
    ]
)

DETAILS = pa.schema(
    [
        ("feature", pa.uint32()),
        *((name, pa.list_(pa.uint32())) for name in ("pos_tokens", "neg_tokens")),
        *((name, pa.list_(pa.float32())) for name in ("pos_values", "neg_values")),
        ("act_edges", pa.list_(pa.float32())),
        ("act_counts", pa.list_(pa.uint64())),
        ("act_quantiles", pa.list_(pa.float32())),
        ("logit_edges", pa.list_(pa.float32())),
        ("logit_counts", pa.list_(pa.uint64())),
        ("interval_edges", pa.list_(pa.float32())),
        ("interval_share", pa.list_(pa.float32())),
        ("token_ids", pa.list_(pa.uint32())),
        ("token_mean_act", pa.list_(pa.float32())),
        ("token_share", pa.list_(pa.float32())),  # optional, since minor 1
        ("dec_neighbors", pa.list_(pa.uint32())),
        ("dec_cosine", pa.list_(pa.float32())),
        ("enc_neighbors", pa.list_(pa.uint32())),
        ("enc_cosine", pa.list_(pa.float32())),
        ("co_features", pa.list_(pa.uint32())),
        ("co_pmi", pa.list_(pa.float32())),
        ("write_norms", pa.list_(pa.float32())),
        ("write_cosine", pa.list_(pa.float32())),  # optional, since minor 2
    ]
)

CONTEXTS = pa.schema(
    [
        ("feature", pa.uint32()),
        ("interval", pa.int8()),
        ("rank", pa.uint16()),
        ("max_act", pa.float32()),
        ("max_pos", pa.uint16()),
        ("seq", pa.uint32()),
        ("start", pa.uint16()),
        ("stop", pa.uint16()),
        ("dup_of", pa.int32()),
        ("act_pos", pa.list_(pa.uint16())),
        ("act", pa.list_(pa.float32())),
        ("src_pos", pa.list_(pa.uint16())),  # optional, since minor 3: of features that read sequences
        ("src_val", pa.list_(pa.float32())),
    ]
)

EXPLANATIONS = pa.schema(
    [
        ("feature", pa.uint32()),
        *((name, pa.string()) for name in ("id", "text", "method", "judge", "prompt_hash", "created")),
        ("scores", pa.map_(pa.string(), pa.float32())),
        ("n_train", pa.int32()),
        ("n_test", pa.int32()),
        ("disjoint", pa.bool_()),
    ]
)

VOCABULARY = pa.schema([("id", pa.uint32()), ("bytes", pa.binary()), ("text", pa.string()), ("special", pa.bool_())])

IDENTITY = ("dictionary", "model", "data", "analysis", "files")  # what the fingerprint is of
OPTIONAL = frozenset({"best_score", "cluster", "map_x", "map_y", "token_share", "write_cosine", "src_pos", "src_val"})


def bundle_fingerprint(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of what a bundle is: dictionary, model, data, analysis, and the hashes of its files."""
    return fingerprint({key: manifest[key] for key in IDENTITY})


def contexts_file(feature: int) -> str:
    """Path, inside the bundle, of the file that holds a feature's contexts."""
    return f"contexts/{feature // FEATURES_PER_FILE:05d}.parquet"


def contexts_group(feature: int) -> int:
    """Row group of a feature's contexts in their file."""
    return feature % FEATURES_PER_FILE // FEATURES_PER_GROUP


def round_bits(values: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """Values to 11 significant bits, ties away from zero: 3 decimal digits, and half the bytes once compressed."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)
