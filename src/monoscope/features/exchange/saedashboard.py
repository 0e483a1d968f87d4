"""SAEDashboard: a directory of ``batch-N.json``, with ``run_settings.json`` and ``skipped_indexes.json``.

    file        model_id, layer, sae_set, sae_id_suffix, features[]
    feature     feature_index, pos_str, pos_values, neg_str, neg_values, frac_nonzero,
                freq_hist_data_bar_{values,heights}, logits_hist_data_bar_{values,heights},
                neuron_alignment_{indices,values,l1}, activations[], ...
    activation  bin_min, bin_max, bin_contains, qualifying_token_index, tokens[], values[]

``bin_min == -1`` marks the strongest. Bars are given by their middles. Written by what this library measures: what it
does not (correlated neurons and features) is an empty list, and no number is made up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monoscope.core.errors import DataError
from monoscope.core.io import write_json
from monoscope.core.progress import progress
from monoscope.features.bundle import FeatureBundle
from monoscope.features.exchange.described import Bars, Described, example
from monoscope.features.exchange.files import read_json
from monoscope.features.exchange.names import dataset_of, layer_of
from monoscope.features.records import Context, Feature, Histogram

PER_FILE, TOP_MARK, ALIGNED = 128, -1, 3
LOST = (
    "neurons and features correlated with each feature",
    "activations where a context's window was cut",
    "co-activation and decoder neighbors",
)


def recognizes(path: Path) -> bool:
    """Whether a directory holds such files."""
    return path.is_dir() and any(re.fullmatch(r"batch-\d+\.json", entry.name) for entry in path.iterdir())


def write(bundle: FeatureBundle, out: Path, features: Sequence[int]) -> None:
    """Write features into an existing directory, 128 a file; dead ones are listed as skipped."""
    is_dead = bundle.column("is_dead")
    dead, alive = ([i for i in features if bool(is_dead[i]) is state] for state in (True, False))
    dictionary, data = bundle.manifest["dictionary"], bundle.manifest["data"]
    head = {
        "model_id": bundle.manifest["model"]["id"] or "unknown",
        "layer": layer_of(bundle),
        "sae_set": f"monoscope-{dictionary['function']}",
        "sae_id_suffix": None,
    }
    aligned = _alignment(bundle)
    with progress("write features", len(alive), "features") as bar:
        for start in range(0, len(alive), PER_FILE):
            chosen = alive[start : start + PER_FILE]
            rows = [_feature(bundle, bundle.feature(index), aligned) for index in chosen]
            write_json(out / f"batch-{start // PER_FILE}.json", {**head, "features": rows})
            bar.advance(len(chosen))
    settings = {
        "n_prompts_total": data["n_sequences"],
        "n_tokens_in_prompt": data["context_length"],
        "n_features_at_a_time": PER_FILE,
        "dataset": dataset_of(bundle),
        "generator": "monoscope",
    }
    write_json(out / "run_settings.json", settings)
    write_json(
        out / "skipped_indexes.json", {"model_id": head["model_id"], "layer": head["layer"], "skipped_indexes": dead}
    )


def about(path: Path) -> dict[str, Any]:
    """Model, layer and text of a directory, as far as its files say."""
    first = _batches(path)[0]
    content = _object(read_json(first), first)
    settings = _object(read_json(path / "run_settings.json"), path) if (path / "run_settings.json").is_file() else {}
    sites = [f"{content['layer']}.resid_post"] if isinstance(content.get("layer"), int) else []
    return {
        "format": "saedashboard",
        "dictionary": {"reads": sites, "writes": sites, "source": content.get("sae_set")},
        "model": {"id": content.get("model_id")},
        "data": {"dataset": settings.get("dataset"), "context_length": settings.get("n_tokens_in_prompt")},
    }


def read(path: Path) -> Iterator[Described]:
    """The features of a directory, file by file. Raises DataError, naming the file, for what is not of this layout."""
    for file in _batches(path):
        content = _object(read_json(file), file)
        if not isinstance(content.get("features"), list):
            raise DataError(f"{file} has no list of features")
        for row in content["features"]:
            try:
                yield described(row)
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{file} holds a feature that cannot be read: {error!r}") from None


def described(row: dict[str, Any]) -> Described:
    """One feature of a file."""
    examples = [
        example(shown["tokens"], shown["values"], is_top=shown.get("bin_min") == TOP_MARK)
        for shown in row.get("activations", [])
        if shown["tokens"]
    ]
    return Described(
        index=int(row["feature_index"]),
        density=row.get("frac_nonzero"),
        promoted=tuple(zip(row.get("pos_str", []), row.get("pos_values", []), strict=True)),
        suppressed=tuple(zip(row.get("neg_str", []), row.get("neg_values", []), strict=True)),
        acts=Bars.around(row.get("freq_hist_data_bar_values", []), row.get("freq_hist_data_bar_heights", [])),
        logits=Bars.around(row.get("logits_hist_data_bar_values", []), row.get("logits_hist_data_bar_heights", [])),
        examples=tuple(examples),
    )


def _feature(bundle: FeatureBundle, feature: Feature, aligned: Any) -> dict[str, Any]:
    data = bundle.manifest["data"]
    act_values, act_heights = bars(feature.acts)
    logit_values, logit_heights = bars(feature.logits)
    return {
        "feature_index": feature.index,
        **aligned(feature.index),
        **{
            f"correlated_{kind}_{name}": [] for kind in ("neurons", "features") for name in ("indices", "l1", "pearson")
        },
        "neg_str": [token.text for token in feature.suppressed],
        "neg_values": [token.value for token in feature.suppressed],
        "pos_str": [token.text for token in feature.promoted],
        "pos_values": [token.value for token in feature.promoted],
        "frac_nonzero": feature.density,
        "freq_hist_data_bar_values": act_values,
        "freq_hist_data_bar_heights": act_heights,
        "logits_hist_data_bar_values": logit_values,
        "logits_hist_data_bar_heights": logit_heights,
        "n_prompts_total": data["n_sequences"],
        "n_tokens_in_prompt": data["context_length"],
        "dataset": dataset_of(bundle),
        "decoder_weights_dist": [],
        "activations": [activation(feature, context) for context in feature.contexts],
    }


def activation(feature: Feature, context: Context) -> dict[str, Any]:
    """A context, with the bounds and the share of its interval; random and silent ones are a bin of their own."""
    if context.interval == 0:
        low, high, share = TOP_MARK, TOP_MARK, TOP_MARK
    elif context.interval > 0:
        interval = feature.intervals[context.interval - 1]
        low, high, share = interval.low, interval.high, interval.share
    else:
        low, high, share = (0.0, 0.0, 1.0 - feature.density) if context.interval < -1 else (0.0, feature.max_act, 1.0)
    return {
        "bin_min": low,
        "bin_max": high,
        "bin_contains": share,
        "qualifying_token_index": context.peak,
        "tokens": list(context.tokens),
        "values": [round(float(value), 4) for value in context.acts],
    }


def bars(histogram: Histogram) -> tuple[list[float], list[float]]:
    """Middles and heights of a histogram."""
    edges = histogram.edges.astype(np.float64)
    return ((edges[1:] + edges[:-1]) / 2).tolist(), histogram.counts.astype(float).tolist()


def _alignment(bundle: FeatureBundle) -> Any:
    """Coordinates each feature's direction points along most: indices, values, shares of the L1 norm."""
    decoder = bundle.decoder()
    rows = None if decoder is None else np.asarray(decoder, np.float32)

    def of(index: int) -> dict[str, Any]:
        if rows is None:
            return {f"neuron_alignment_{name}": [] for name in ("indices", "values", "l1")}
        row = rows[index]
        best = np.argsort(-np.abs(row))[:ALIGNED]
        return {
            "neuron_alignment_indices": best.tolist(),
            "neuron_alignment_values": row[best].tolist(),
            "neuron_alignment_l1": (np.abs(row[best]) / max(np.abs(row).sum(), 1e-30)).tolist(),
        }

    return of


def _batches(path: Path) -> list[Path]:
    found = [entry for entry in path.iterdir() if re.fullmatch(r"batch-\d+\.json", entry.name)]
    if not found:
        raise DataError(f"{path} holds no batch-N.json")
    return sorted(found, key=lambda entry: int(entry.stem.removeprefix("batch-")))


def _object(value: Any, where: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} holds a {type(value).__name__}, not an object")
    return value
