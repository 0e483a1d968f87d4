"""Neuronpedia: an export ``MODEL/SOURCE/`` of JSON lines, and the bodies of its upload.

    release.jsonl model.jsonl sourceset.jsonl source.jsonl
    features/batch-N.jsonl.gz activations/batch-N.jsonl.gz explanations/batch-N.jsonl.gz      1,024 features each

Keys are camelCase, absent values null; ``layer`` holds the id of the source, ``index`` is text. An upload is a body
``{modelId, source, features[1..128]}``; a feature without activations cannot be uploaded.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monoscope.core.errors import DataError
from monoscope.core.io import atomic_path, write_json
from monoscope.core.progress import progress
from monoscope.features.bundle import FeatureBundle
from monoscope.features.exchange.described import Bars, Described, Said, example
from monoscope.features.exchange.files import read_lines
from monoscope.features.exchange.names import dataset_of, layer_of, model_of, source_of
from monoscope.features.exchange.saedashboard import activation, bars
from monoscope.features.records import Feature

PER_FILE, PER_UPLOAD, SHOWN_TOKENS, MOST_TOKENS, LONGEST = 1024, 128, 20, 1024, 512
KINDS = ("features", "activations", "explanations")
LOST = ("neurons and features correlated with each feature", "embeddings of explanations", "co-activation")
EMPTY = (
    "creatorId", "createdAt", "vector", "vectorLabel", "vectorDefaultSteerStrength", "topkCosSimIndices",
    "topkCosSimValues", "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1",
    "correlated_neurons_indices", "correlated_neurons_pearson", "correlated_neurons_l1",
    "correlated_features_indices", "correlated_features_pearson", "correlated_features_l1", "decoder_weights_dist",
)  # fmt: skip


def recognizes(path: Path) -> bool:
    """Whether a directory holds such files."""
    return path.is_dir() and any((path / "features").glob("batch-*.jsonl*"))


def write(
    bundle: FeatureBundle, out: Path, features: Sequence[int], said: Mapping[int, Sequence[Said]] | None = None
) -> None:
    """Write features, and what was said of them, into an existing directory."""
    model, source, said = model_of(bundle), source_of(bundle), said or {}
    root = out / model / source
    for kind in KINDS:
        (root / kind).mkdir(parents=True)
    _lines(root / "release.jsonl", [{"name": "monoscope", "description": f"Features of {model}"}])
    _lines(root / "model.jsonl", [_model(bundle)])
    _lines(root / "sourceset.jsonl", [_source_set(bundle)])
    _lines(root / "source.jsonl", [_source(bundle)])
    with progress("write features", len(features), "features") as bar:
        for start in range(0, len(features), PER_FILE):
            chosen = features[start : start + PER_FILE]
            records = [bundle.feature(index) for index in chosen]
            name = f"batch-{start // PER_FILE}.jsonl.gz"
            _lines(root / "features" / name, [_feature(bundle, feature) for feature in records])
            _lines(root / "activations" / name, (row for feature in records for row in _activations(bundle, feature)))
            told = [row for index in chosen for row in _explanations(bundle, index, said.get(index, ()))]
            if told:
                _lines(root / "explanations" / name, told)
            bar.advance(len(chosen))


def write_upload(
    bundle: FeatureBundle, out: Path, features: Sequence[int], said: Mapping[int, Sequence[Said]] | None = None
) -> list[int]:
    """Write upload bodies, ``upload-N.json``, into an existing directory; the dead features, which are left out."""
    said = said or {}
    records = [bundle.feature(index) for index in features]
    alive = [feature for feature in records if any(context.max_act for context in feature.contexts)]
    head = {"modelId": model_of(bundle), "source": source_of(bundle)}
    for start in range(0, len(alive), PER_UPLOAD):
        body = [_uploaded(feature, said.get(feature.index, ())) for feature in alive[start : start + PER_UPLOAD]]
        write_json(out / f"upload-{start // PER_UPLOAD}.json", {**head, "features": body})
    return sorted({*features} - {feature.index for feature in alive})


def about(path: Path) -> dict[str, Any]:
    """Model, source and text of a directory, as far as its files say."""
    found = next((path / "features").glob("batch-*.jsonl*"))
    first = next(read_lines(found), {})
    source = str(first.get("layer", ""))
    layer = source.split("-", 1)[0]
    kind = {"res": "resid_post", "mlp": "mlp_out", "att": "attn_out"}
    known = next((kind[part] for part in source.split("-") if part in kind), None)
    sites = [f"{int(layer)}.{known}"] if layer.isdigit() and known else []
    rows = list(read_lines(path / "source.jsonl")) if (path / "source.jsonl").is_file() else [{}]
    facts = rows[0] if rows else {}
    return {
        "format": "neuronpedia",
        "dictionary": {"reads": sites, "writes": sites, "source": source or None},
        "model": {"id": first.get("modelId")},
        "data": {"dataset": facts.get("dataset"), "context_length": facts.get("num_tokens_in_prompt")},
    }


def read(path: Path) -> Iterator[Described]:
    """The features of a directory, batch by batch. Raises DataError, naming the file, for what cannot be read."""
    for file in sorted((path / "features").glob("batch-*.jsonl*"), key=_number):
        shown: dict[int, list[dict[str, Any]]] = {}
        told: dict[int, list[Said]] = {}
        for kind in ("activations", "explanations"):
            beside = path / kind / file.name
            for row in read_lines(beside) if beside.is_file() else ():
                index = int(row["index"])
                if kind == "activations":
                    shown.setdefault(index, []).append(row)
                else:
                    told.setdefault(index, []).append(explanation(row))
        for row in read_lines(file):
            try:
                index = int(row["index"])
                yield _described(row, shown.get(index, []), tuple(told.get(index, ())))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{file} holds a feature that cannot be read: {error!r}") from None


def explanation(row: Mapping[str, Any]) -> Said:
    """An explanation of their record."""
    scores = [(name, row[name]) for name in ("scoreV1", "scoreV2") if isinstance(row.get(name), (int, float))]
    scores += [
        (str(score["explanationScoreTypeName"]), float(score["value"])) for score in row.get("scores") or [] if score
    ]
    return Said(
        str(row["description"]), row.get("typeName") or "", row.get("explanationModelName") or "", tuple(scores)
    )


def _described(row: dict[str, Any], shown: list[dict[str, Any]], said: tuple[Said, ...]) -> Described:
    return Described(
        index=int(row["index"]),
        density=row.get("frac_nonzero"),
        max_act=row.get("maxActApprox"),
        promoted=tuple(zip(row.get("pos_str") or [], row.get("pos_values") or [], strict=True)),
        suppressed=tuple(zip(row.get("neg_str") or [], row.get("neg_values") or [], strict=True)),
        acts=Bars.around(row.get("freq_hist_data_bar_values") or [], row.get("freq_hist_data_bar_heights") or []),
        logits=Bars.around(row.get("logits_hist_data_bar_values") or [], row.get("logits_hist_data_bar_heights") or []),
        examples=tuple(
            example(own["tokens"], own["values"], is_top=own.get("binMin") == -1) for own in shown if own["tokens"]
        ),
        explanations=said,
    )


def _feature(bundle: FeatureBundle, feature: Feature) -> dict[str, Any]:
    act_values, act_heights = bars(feature.acts)
    logit_values, logit_heights = bars(feature.logits)
    near = feature.decoder_neighbors
    return {
        **dict.fromkeys(EMPTY),
        "modelId": model_of(bundle),
        "layer": source_of(bundle),
        "index": str(feature.index),
        "sourceSetName": _set_name(bundle),
        "maxActApprox": feature.max_act,
        "hasVector": False,
        "hookName": ", ".join(bundle.manifest["dictionary"]["writes"]),
        "topkCosSimIndices": [neighbor.feature for neighbor in near],
        "topkCosSimValues": [neighbor.value for neighbor in near],
        "neg_str": [token.text for token in feature.suppressed],
        "neg_values": [token.value for token in feature.suppressed],
        "pos_str": [token.text for token in feature.promoted],
        "pos_values": [token.value for token in feature.promoted],
        "frac_nonzero": feature.density,
        "freq_hist_data_bar_values": act_values,
        "freq_hist_data_bar_heights": act_heights,
        "logits_hist_data_bar_values": logit_values,
        "logits_hist_data_bar_heights": logit_heights,
    }


def _activations(bundle: FeatureBundle, feature: Feature) -> Iterator[dict[str, Any]]:
    for context in feature.contexts:
        shown = activation(feature, context)
        yield {
            "id": _id(bundle, "activation", feature.index, context.interval, context.rank),
            "tokens": shown["tokens"],
            "index": str(feature.index),
            "layer": source_of(bundle),
            "modelId": model_of(bundle),
            "maxValue": max(shown["values"]),
            "maxValueTokenIndex": context.peak,
            "minValue": min(shown["values"]),
            "values": shown["values"],
            "creatorId": None,
            "dataSource": dataset_of(bundle),
            "dataIndex": str(context.sequence),
            "dfaValues": [],
            "dfaTargetIndex": None,
            "dfaMaxValue": None,
            "createdAt": bundle.manifest.get("created"),
            "lossValues": [],
            "logitContributions": None,
            "binMin": shown["bin_min"],
            "binMax": shown["bin_max"],
            "binContains": shown["bin_contains"],
            "qualifyingTokenIndex": context.peak,
        }


def _explanations(bundle: FeatureBundle, index: int, said: Iterable[Said]) -> Iterator[dict[str, Any]]:
    for number, own in enumerate(said):
        yield {
            "id": _id(bundle, "explanation", index, number),
            "modelId": model_of(bundle),
            "layer": source_of(bundle),
            "index": str(index),
            "description": own.text,
            "authorId": None,
            "embedding": None,
            "triggeredById": None,
            "typeName": own.method or None,
            "explanationModelName": own.model or None,
            "notes": None,
            "createdAt": bundle.manifest.get("created"),
            "scores": [{"explanationScoreTypeName": name, "value": value} for name, value in own.scores],
        }


def _uploaded(feature: Feature, said: Sequence[Said]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "index": feature.index,
        "density": feature.density,
        "topLogits": [{"token": token.text, "value": token.value} for token in feature.promoted[:SHOWN_TOKENS]],
        "bottomLogits": [{"token": token.text, "value": token.value} for token in feature.suppressed[:SHOWN_TOKENS]],
        "activations": [],
    }
    for context in feature.contexts:
        if not context.max_act:
            continue
        shown = activation(feature, context)
        row: dict[str, Any] = {"tokens": shown["tokens"][:MOST_TOKENS], "values": shown["values"][:MOST_TOKENS]}
        if context.interval > 0:
            row |= {"quantileMin": shown["bin_min"], "quantileMax": shown["bin_max"]}
            row["quantileFraction"] = min(1.0, max(0.0, shown["bin_contains"]))
        body["activations"].append(row)
    if said:
        body["explanations"] = [
            {"text": own.text[:LONGEST]}
            | ({"methodName": own.method.lower()} if own.method else {})
            | ({"modelName": own.model.lower()} if own.model else {})
            for own in said
        ]
    return body


def _model(bundle: FeatureBundle) -> dict[str, Any]:
    model = bundle.manifest["model"]
    return {"id": model_of(bundle), "displayName": model["id"], "layers": model["n_layers"]}


def _set_name(bundle: FeatureBundle) -> str:
    return source_of(bundle).split("-", 1)[1]


def _source_set(bundle: FeatureBundle) -> dict[str, Any]:
    about = bundle.manifest["dictionary"]
    description = f"{about['wiring']}, {about['function']}, {len(bundle):,} features"
    return {"modelId": model_of(bundle), "name": _set_name(bundle), "hasDashboards": True, "description": description}


def _source(bundle: FeatureBundle) -> dict[str, Any]:
    data = bundle.manifest["data"]
    return {
        "id": source_of(bundle),
        "modelId": model_of(bundle),
        "setName": _set_name(bundle),
        "hasDashboards": True,
        "inferenceEnabled": False,
        "num_prompts": data["n_sequences"],
        "num_tokens_in_prompt": data["context_length"],
        "dataset": dataset_of(bundle),
        "notes": f"layer {layer_of(bundle)}; bundle {bundle.manifest['fingerprint']}",
        "createdAt": bundle.manifest.get("created"),
    }


def _id(bundle: FeatureBundle, *parts: object) -> str:
    text = "/".join(map(str, (bundle.manifest["fingerprint"], *parts)))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    with atomic_path(path) as partial:
        data = text.encode("utf-8", "surrogateescape")
        partial.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _number(path: Path) -> int:
    return int(path.name.split(".")[0].removeprefix("batch-"))
