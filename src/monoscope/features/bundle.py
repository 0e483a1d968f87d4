"""FeatureBundle: the immutable result of an analysis, read lazily from its directory.

Opening reads the manifest. A feature costs one row group of details and one of contexts, 128 features each, which stay
in memory for the next of its neighbors; its tokens come from a memory-mapped file.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float16, UInt32
from safetensors import SafetensorError, safe_open

from monoscope.core.errors import DataError, UserError
from monoscope.core.io import MANIFEST, read_manifest, sha256_file
from monoscope.core.stores.remote import Location, Remote, fetched, location
from monoscope.features.records import Context, Explanation, Feature, Histogram, Interval, Neighbor, Token
from monoscope.features.schema import (
    CONTEXTS,
    DETAILS,
    EXPLANATIONS,
    FEATURES,
    FEATURES_PER_GROUP,
    IDENTITY,
    OPTIONAL,
    SCHEMA,
    VERSION,
    VOCABULARY,
    bundle_fingerprint,
    contexts_file,
    contexts_group,
)

if TYPE_CHECKING:
    from monoscope.features.widgets.views import Explorer

CACHED_GROUPS = 16
EXPLAINED = "explanations.parquet"


class FeatureBundle:
    """A bundle on disk. See ``open``."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        self._details = lru_cache(CACHED_GROUPS)(self._read_details)
        self._contexts = lru_cache(CACHED_GROUPS)(self._read_contexts)
        self._metadata = lru_cache(None)(self._read_metadata)  # of many row groups, and slow to parse

    @classmethod
    def open(cls, path: Location | str) -> FeatureBundle:
        """The bundle of a directory. Raises DataError, naming the file, for one that is not whole.

        At the URL of a store, the bundle is copied to this machine, for as long as it is open.
        """
        path = location(path)
        if isinstance(path, Remote):
            copy = ExitStack()
            bundle = cls.open(copy.enter_context(fetched(path)))
            weakref.finalize(bundle, copy.close)
            return bundle
        if not path.is_dir():
            raise DataError(f"no feature bundle at {path}: a directory with {MANIFEST} is expected")
        manifest = read_manifest(path, SCHEMA, VERSION)
        keys = (*IDENTITY, "fingerprint", "stats", "intervals")
        if missing := [key for key in keys if key not in manifest]:
            raise DataError(f"{path / MANIFEST} lacks {', '.join(missing)}")
        for file in manifest["files"]:
            if not (path / file["path"]).is_file():
                raise DataError(f"{path / file['path']} is missing; copy the bundle again, whole")
            if (found := (path / file["path"]).stat().st_size) != file["bytes"]:
                raise DataError(f"{path / file['path']} has {found} bytes, not the {file['bytes']} it was written with")
        return cls(path, manifest)

    def __len__(self) -> int:
        return int(self.manifest["dictionary"]["n_features"])

    def __repr__(self) -> str:
        dictionary = self.manifest["dictionary"]
        site = ", ".join(dictionary["writes"])
        return f"FeatureBundle({str(self.path)!r}, {len(self):,} features of {self.manifest['model']['id']} at {site})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from monoscope.features.notebook import bundle_html

        return bundle_html(self)

    def show(self, feature: int = 0) -> Explorer:
        """A live view for notebooks that goes from feature to feature. Needs the extra ``notebook``."""
        from monoscope.features.widgets import explore

        return explore(self, feature)

    @cached_property
    def features(self) -> pa.Table:
        """The scalars of all features, one row each, in order."""
        table = self._read("features.parquet")
        _check_columns(self.path / "features.parquet", table, FEATURES)
        return table

    def column(self, name: str) -> np.ndarray:
        """One scalar of all features as an array; nulls of floats are NaN."""
        return self.features.column(name).to_numpy()

    @cached_property
    def token_table(self) -> pa.Table:
        """Id, bytes and text of every token, and whether it is special."""
        table = self._read("vocab.parquet")
        _check_columns(self.path / "vocab.parquet", table, VOCABULARY)
        return table

    @cached_property
    def vocabulary(self) -> list[str]:
        """Text of every token id."""
        return self.token_table.column("text").to_pylist()

    @cached_property
    def special(self) -> frozenset[int]:
        """Token ids that are special."""
        return frozenset(np.flatnonzero(self.token_table.column("special").to_numpy()).tolist())

    def decoder(self) -> Any:
        """Feature directions, a half-precision tensor ``[F, d]``, or None where the bundle carries none."""
        from monoscope.core.tensors import read_tensors

        path = self.path / "decoder.safetensors"
        return read_tensors(path)["W_dec"] if path.is_file() else None

    def directions(self) -> Float16[np.ndarray, "F d"] | None:
        """Feature directions as they stand in the file, mapped into memory; None where the bundle carries none."""
        path = self.path / "decoder.safetensors"
        return self._mapped(path).get_tensor("W_dec") if path.is_file() else None

    def feature(self, index: int, *, contexts: bool = True) -> Feature:
        """Everything about one feature, its contexts' tokens included, or, with ``contexts`` false, all but those."""
        if not 0 <= index < len(self):
            raise DataError(f"there is no feature {index}; this bundle has 0 to {len(self) - 1}")
        scalar = self.features.slice(index, 1).to_pylist()[0]
        detail = self._details(index // FEATURES_PER_GROUP).slice(index % FEATURES_PER_GROUP, 1).to_pylist()[0]
        return self._record(scalar, detail, self.contexts(index) if contexts else ())

    def contexts(self, index: int) -> tuple[Context, ...]:
        """A feature's contexts, sorted by (interval, rank): not firing, random, strongest, bands."""
        group = self._contexts(index // FEATURES_PER_GROUP)
        feature = group.column("feature").to_numpy()
        start, stop = np.searchsorted(feature, [index, index + 1])
        return tuple(self._context(row) for row in group.slice(start, stop - start).to_pylist())

    def explanations(self, feature: int) -> tuple[Explanation, ...]:
        """What is handed on with the bundle about a feature."""
        return self._explanations.get(feature, ())

    @cached_property
    def _explanations(self) -> dict[int, tuple[Explanation, ...]]:
        if not (self.path / EXPLAINED).is_file():
            return {}
        table = self._read(EXPLAINED)
        _check_columns(self.path / EXPLAINED, table, EXPLANATIONS)
        found: dict[int, tuple[Explanation, ...]] = {}
        for row in table.to_pylist():
            own = Explanation(**{**row, "scores": tuple(row["scores"] or ())})
            found[own.feature] = (*found.get(own.feature, ()), own)
        return found

    def context_groups(self) -> Iterator[pa.Table]:
        """All contexts, one table for each 128 features, in order."""
        for number in range(-(-len(self) // FEATURES_PER_GROUP)):
            yield self._read_contexts(number)

    @cached_property
    def documents(self) -> UInt32[np.ndarray, " s"]:
        """Number of the document each stored sequence begins in."""
        return self._sequences.get_tensor("doc")

    def tokens(self) -> UInt32[np.ndarray, "s pos"]:
        """All stored sequences; what follows a sequence's length is padding."""
        return self._sequences.get_tensor("tokens")

    def verify(self) -> None:
        """Read everything and compare it with the manifest. Raises DataError naming the first file that differs."""
        for file in self.manifest["files"]:
            path = self.path / file["path"]
            if sha256_file(path) != file["sha256"]:
                raise DataError(f"{path} was changed after it was written: its hash is not the manifest's")
            if path.suffix == ".parquet" and (found := self._open(file["path"]).metadata.num_rows) != file["rows"]:
                raise DataError(f"{path} has {found} rows, not {file['rows']}")
        if bundle_fingerprint(self.manifest) != self.manifest["fingerprint"]:
            raise DataError(f"{self.path / MANIFEST} was changed after it was written: its fingerprint does not hold")
        rows = {file["path"]: file["rows"] for file in self.manifest["files"]}
        for name in ("features.parquet", "details.parquet"):
            if rows.get(name) != len(self):
                raise DataError(f"{self.path / name} has {rows.get(name)} rows for {len(self)} features")
        for number, group in enumerate(self.context_groups()):
            feature = group.column("feature").to_numpy().astype(np.int64)
            first = number * FEATURES_PER_GROUP
            if len(feature) and not (first <= feature[0] and feature[-1] < first + FEATURES_PER_GROUP):
                raise DataError(
                    f"{self.path / contexts_file(first)}: row group {contexts_group(first)} holds others' rows"
                )
            if (np.diff(feature) < 0).any():
                raise DataError(f"{self.path / contexts_file(first)} is not sorted by feature")

    @cached_property
    def _sequences(self) -> Any:
        return self._mapped(self.path / "sequences.safetensors")

    def _mapped(self, path: Path) -> Any:
        try:
            return safe_open(path, framework="np")
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} is not a whole safetensors file ({error}); copy the bundle again") from None

    def _open(self, name: str) -> pq.ParquetFile:
        with _reading(self.path / name):
            return pq.ParquetFile(self.path / name, metadata=self._metadata(name), memory_map=True)

    def _read_metadata(self, name: str) -> pq.FileMetaData:
        with _reading(self.path / name):
            return pq.read_metadata(self.path / name, memory_map=True)

    def _read(self, name: str) -> pa.Table:
        with _reading(self.path / name):
            return self._open(name).read()

    def _read_group(self, name: str, group: int, schema: pa.Schema) -> pa.Table:
        with _reading(self.path / name), self._open(name) as file:
            if group >= file.metadata.num_row_groups:
                raise DataError(
                    f"{self.path / name} has {file.metadata.num_row_groups} row groups, group {group} is missing"
                )
            table = file.read_row_group(group)
        _check_columns(self.path / name, table, schema)
        return table

    def _read_details(self, number: int) -> pa.Table:
        return self._read_group("details.parquet", number, DETAILS)

    def _read_contexts(self, number: int) -> pa.Table:
        first = number * FEATURES_PER_GROUP
        return self._read_group(contexts_file(first), contexts_group(first), CONTEXTS)

    def _context(self, row: dict[str, Any]) -> Context:
        start, stop = row["start"], row["stop"]
        ids = self._sequences.get_slice("tokens")[row["seq"], start:stop].astype(np.int64).tolist()
        acts = np.zeros(stop - start, np.float32)
        acts[np.array(row["act_pos"], np.int64) - start] = row["act"]
        return Context(
            interval=row["interval"],
            rank=row["rank"],
            max_act=row["max_act"],
            max_pos=row["max_pos"],
            sequence=row["seq"],
            document=int(self.documents[row["seq"]]),
            start=start,
            stop=stop,
            dup_of=None if row["dup_of"] < 0 else row["dup_of"],
            token_ids=tuple(ids),
            tokens=tuple(map(self.vocabulary.__getitem__, ids)),
            acts=acts,
            sources=tuple(zip(row.get("src_pos") or (), row.get("src_val") or (), strict=True)),
        )

    def _record(self, scalar: dict[str, Any], detail: dict[str, Any], contexts: tuple[Context, ...]) -> Feature:
        edges, share = detail["interval_edges"], detail["interval_share"]
        same = (
            "n_fired density n_sequences max_act p999_act mean_act std_act is_dead dec_norm enc_norm enc_dec_cos "
            "first_pos_share logit_kurtosis"
        )
        return Feature(
            index=scalar["feature"],
            **{name: scalar[name] for name in same.split()},
            acts=_histogram(detail, "act"),
            logits=_histogram(detail, "logit"),
            quantiles=np.array(detail["act_quantiles"], np.float32),
            intervals=tuple(Interval(i + 1, edges[i + 1], edges[i], share[i]) for i in range(len(share))),
            tokens=self._tokens(detail["token_ids"], detail.get("token_share") or [np.nan] * len(detail["token_ids"])),
            token_means=np.array(detail["token_mean_act"], np.float64),
            promoted=self._tokens(detail["pos_tokens"], detail["pos_values"]),
            suppressed=self._tokens(detail["neg_tokens"], detail["neg_values"]),
            decoder_neighbors=_neighbors(detail["dec_neighbors"], detail["dec_cosine"]),
            encoder_neighbors=_neighbors(detail["enc_neighbors"], detail["enc_cosine"]),
            together=_neighbors(detail["co_features"], detail["co_pmi"]),
            write_norms=np.array(detail["write_norms"] or [], np.float32),
            write_cosine=np.array(detail.get("write_cosine") or [], np.float32),
            contexts=contexts,
        )

    def _tokens(self, ids: list[int], values: list[float]) -> tuple[Token, ...]:
        return tuple(Token(i, self.vocabulary[i], value) for i, value in zip(ids, values, strict=True))


def _neighbors(features: list[int], values: list[float]) -> tuple[Neighbor, ...]:
    return tuple(Neighbor(feature, value) for feature, value in zip(features, values, strict=True))


def _histogram(detail: dict[str, Any], kind: str) -> Histogram:
    return Histogram(np.array(detail[f"{kind}_edges"], np.float32), np.array(detail[f"{kind}_counts"], np.uint64))


def _check_columns(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    for column in schema:
        if column.name in OPTIONAL and column.name not in table.schema.names:
            continue
        if column.name not in table.schema.names or table.schema.field(column.name).type != column.type:
            raise DataError(f"{path} has no column {column.name} of type {column.type}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what Arrow says of a broken file into an error that names it."""
    try:
        yield
    except UserError:
        raise
    except (pa.ArrowException, OSError, EOFError) as error:
        raise DataError(f"{path} is not a whole Parquet file ({error}); copy or make the bundle again") from None
