"""Feature details, one JSON object a feature: Anthropic's, as circuit viewers read them; one file each, or one in all.

    {index, examples_quantiles[{quantile_name, examples[{tokens, tokens_acts_list, train_token_ind,
     is_repeated_datapoint}]}], top_logits[], bottom_logits[], act_min, act_max, quantile_values[], histogram[],
     activation_frequency}

    features/NUMBER.json              NUMBER is (l + f)(l + f + 1) / 2 + f of layer l and feature f
    features/index.json.gz            {"LAYER": {"filename", "offsets": [F + 1]}}
    features/layer_LAYER.bin          records: uint32 little-endian length, then that many bytes of zlib of the JSON

A record of the binary is read with one HTTP range, ``offsets[f] .. offsets[f + 1] - 1``.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monoscope.core.errors import DataError
from monoscope.core.io import atomic_path, write_json
from monoscope.core.progress import progress
from monoscope.features.bundle import FeatureBundle
from monoscope.features.exchange.described import Bars, Described, Example, example
from monoscope.features.exchange.files import inflate, parsed, read_json
from monoscope.features.exchange.names import layer_of, source_of
from monoscope.features.records import Feature

FOLDER, INDEX = "features", "index.json.gz"
TOP = "Top activations"
LOST = ("values of promoted and suppressed tokens", "neighbors and co-activation", "the histogram of logit effects")


def recognizes(path: Path) -> bool:
    """Whether a directory holds such files."""
    folder = path / FOLDER
    return (folder / INDEX).is_file() or (folder.is_dir() and any(_numbered(folder)))


def write(bundle: FeatureBundle, out: Path, features: Sequence[int]) -> None:
    """Write a file for each feature into an existing directory."""
    layer = layer_of(bundle)
    (out / FOLDER).mkdir()
    with progress("write features", len(features), "features") as bar:
        for index in features:
            write_json(out / FOLDER / f"{paired(layer, index)}.json", record(bundle, bundle.feature(index)))
            bar.advance(1)


def write_binary(bundle: FeatureBundle, out: Path, features: Sequence[int]) -> None:
    """Write one file of all features that is read in ranges, and its index; those not chosen are empty."""
    layer, chosen, offsets = layer_of(bundle), {*features}, [0]
    (out / FOLDER).mkdir()
    name = f"layer_{layer}.bin"
    whole = progress("write features", len(bundle), "features")
    with whole as bar, atomic_path(out / FOLDER / name) as partial, partial.open("wb") as file:
        for index in range(len(bundle)):
            if index in chosen:
                text = json.dumps(record(bundle, bundle.feature(index)), allow_nan=False)
                data = zlib.compress(text.encode("utf-8", "surrogateescape"))
                file.write(struct.pack("<I", len(data)) + data)
            offsets.append(file.tell())
            bar.advance(1)
    with atomic_path(out / FOLDER / INDEX) as partial:
        index = {str(layer): {"filename": name, "offsets": offsets}}
        partial.write_bytes(gzip.compress(json.dumps(index).encode(), mtime=0))


def about(path: Path) -> dict[str, Any]:
    """Where the features are from, as far as the files say: the layer."""
    first = next(_rows(path))
    return {"format": "feature_json", "dictionary": {"source": first[2].get("transcoder_id"), "layer": first[0]}}


def read(path: Path) -> Iterator[Described]:
    """The features of a directory; of one layer, since a bundle has one dictionary."""
    layer = None
    for number, index, row in _rows(path):
        if layer not in (None, number):
            raise DataError(f"{path} holds features of layers {layer} and {number}; convert each layer by itself")
        layer = number
        try:
            yield described(index, row)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} holds a feature that cannot be read, {index}: {error!r}") from None


def described(index: int, row: dict[str, Any]) -> Described:
    """One feature of a file."""
    examples: dict[tuple[tuple[str, ...], tuple[float, ...]], Example] = {}
    for group in row["examples_quantiles"]:
        is_top = group["quantile_name"] == TOP
        for shown in group["examples"]:
            own = example(shown["tokens"], shown["tokens_acts_list"], is_top=is_top)
            examples.setdefault((own.tokens, tuple(own.acts.tolist())), own)
    histogram = row.get("histogram") or []
    low, high = float(row.get("act_min") or 0.0), float(row.get("act_max") or 0.0)
    bars = Bars(np.linspace(low, high, len(histogram) + 1), np.array(histogram, np.float64)) if histogram else None
    return Described(
        index=index,
        density=row.get("activation_frequency"),
        max_act=row.get("act_max"),
        promoted=tuple((str(token), math.nan) for token in row.get("top_logits", [])),
        suppressed=tuple((str(token), math.nan) for token in row.get("bottom_logits", [])),
        acts=bars,
        examples=tuple(examples.values()),
    )


def record(bundle: FeatureBundle, feature: Feature) -> dict[str, Any]:
    """A feature as such an object."""
    names = {0: TOP, -1: "Random firing", -2: "Not firing"}
    names |= {i.number: f"Interval {i.number}: {i.low:.4g} to {i.high:.4g}" for i in feature.intervals}
    groups: dict[int, list[dict[str, Any]]] = {}
    for context in feature.contexts:
        shown = {
            "tokens": list(context.tokens),
            "tokens_acts_list": [round(float(value), 4) for value in context.acts],
            "train_token_ind": context.peak,
            "is_repeated_datapoint": context.dup_of is not None,
        }
        groups.setdefault(context.interval, []).append(shown)
    order = sorted(groups, key=lambda interval: (interval < 0, abs(interval)))
    edges = feature.acts.edges
    return {
        "index": feature.index,
        "transcoder_id": source_of(bundle),
        "examples_quantiles": [{"quantile_name": names[i], "examples": groups[i]} for i in order],
        "top_logits": [token.text for token in feature.promoted],
        "bottom_logits": [token.text for token in feature.suppressed],
        "act_min": float(edges[0]) if len(edges) else 0.0,
        "act_max": float(edges[-1]) if len(edges) else 0.0,
        "quantile_values": feature.quantiles.astype(float).tolist(),
        "histogram": feature.acts.counts.astype(int).tolist(),
        "activation_frequency": feature.density,
    }


def paired(layer: int, feature: int) -> int:
    """Layer and feature as one number, after Cantor."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def unpaired(number: int) -> tuple[int, int]:
    """Layer and feature of a paired number, exactly."""
    total = (math.isqrt(8 * number + 1) - 1) // 2
    feature = number - total * (total + 1) // 2
    return total - feature, feature


def _numbered(folder: Path) -> Iterator[Path]:
    return (file for file in folder.iterdir() if file.suffix == ".json" and file.stem.isdigit())


def _rows(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Layer, feature and object of every record."""
    folder = path / FOLDER
    if (folder / INDEX).is_file():
        yield from _binary_rows(folder)
        return
    for file in sorted(_numbered(folder), key=lambda file: int(file.stem)):
        row = read_json(file)
        if not isinstance(row, dict):
            raise DataError(f"{file} holds a {type(row).__name__}, not an object")
        yield *unpaired(int(file.stem)), row


def _binary_rows(folder: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    index = read_json(folder / INDEX)
    if not isinstance(index, dict):
        raise DataError(f"{folder / INDEX} is no index of layers")
    for layer, entry in sorted(index.items(), key=lambda item: int(item[0])):
        file = folder / Path(str(entry["filename"])).name  # a name, never a way out of the directory
        if not file.is_file():
            raise DataError(f"{file} is missing, which {folder / INDEX} names")
        with file.open("rb") as stream:
            size = file.stat().st_size
            for feature, (start, stop) in enumerate(zip(entry["offsets"], entry["offsets"][1:], strict=False)):
                if start == stop:
                    continue
                if not 0 <= start < stop <= size:
                    raise DataError(f"{file} has {size} bytes, and feature {feature} would be at {start} to {stop}")
                stream.seek(start)
                data = stream.read(stop - start)
                (length,) = struct.unpack("<I", data[:4])
                if length != len(data) - 4:
                    raise DataError(f"{file}: the record of feature {feature} has {len(data) - 4} bytes, not {length}")
                yield int(layer), feature, parsed(inflate(data[4:], file), f"{file}, feature {feature}")
