"""Explanations of features in other tools' files, with their scores.

    FILE.jsonl[.gz]                      one object a line: ``index`` (or ``feature``, ``latent``), ``description`` (or
                                         ``explanation``, ``text``), and where known ``typeName`` or ``method``,
                                         ``explanationModelName`` or ``model``, ``scores``
    explanations/HOOKPOINT_latentN.txt   delphi: a JSON string
    scores/SCORER/HOOKPOINT_latentN.txt  delphi: a JSON list of what the scorer saw and answered

A delphi score is the share of answers that were right, of rows it could parse, and for ``embedding`` the area under the
curve that similarities give; rows it could not parse count as wrong. Its training and testing windows may overlap, so
such scores are marked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from monoscope.core.errors import DataError
from monoscope.features.exchange.described import Said
from monoscope.features.exchange.files import read_json, read_lines

LATENT = re.compile(r"(.+)_latent(\d+)\.txt")
NUMBERS, TEXTS = ("index", "feature", "latent", "feature_index"), ("description", "explanation", "text")
DELPHI = "delphi"


def read_explanations(path: Path, hookpoint: str | None = None) -> Iterator[tuple[int, Said]]:
    """Features and what is said of them, of a file of JSON lines or a directory that delphi or Neuronpedia wrote.

    hookpoint: the one to take where a directory holds several
    """
    if path.is_file():
        yield from _lines(path)
    elif any(path.glob("batch-*.jsonl*")):
        for file in sorted(path.glob("batch-*.jsonl*")):
            yield from _lines(file)
    elif (path / "explanations").is_dir() and any((path / "explanations").glob("batch-*.jsonl*")):
        yield from read_explanations(path / "explanations")
    elif (path / "explanations").is_dir():
        yield from _delphi(path, hookpoint)
    else:
        raise DataError(f"{path} holds no explanations: a .jsonl file, or a directory with explanations/, is expected")


def _lines(path: Path) -> Iterator[tuple[int, Said]]:
    for number, row in enumerate(read_lines(path), start=1):
        index = next((row[name] for name in NUMBERS if name in row), None)
        text = next((row[name] for name in TEXTS if isinstance(row.get(name), str)), None)
        if index is None or text is None or not str(index).isdigit():
            raise DataError(
                f"{path}, line {number} names no feature and text; one of {', '.join(NUMBERS)} and one of "
                f"{', '.join(TEXTS)} are expected, found {', '.join(row)}"
            )
        method, model = row.get("typeName") or row.get("method"), row.get("explanationModelName") or row.get("model")
        yield int(index), Said(text, str(method or ""), str(model or ""), tuple(_scores(row)))


def _scores(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    given = row.get("scores")
    if isinstance(given, dict):
        yield from ((str(name), float(value)) for name, value in given.items() if isinstance(value, (int, float)))
    for score in given if isinstance(given, list) else ():
        yield str(score["explanationScoreTypeName"]), float(score["value"])
    for name in ("scoreV1", "scoreV2"):
        if isinstance(row.get(name), (int, float)):
            yield name, float(row[name])


def _delphi(path: Path, hookpoint: str | None) -> Iterator[tuple[int, Said]]:
    found = [(match[1], int(match[2]), file) for file in (path / "explanations").iterdir() if (match := _named(file))]
    hookpoints = sorted({name for name, _, _ in found})
    if not found:
        raise DataError(f"{path / 'explanations'} holds no files named HOOKPOINT_latentN.txt")
    if hookpoint is None and len(hookpoints) > 1:
        raise DataError(f"{path} explains features of {', '.join(hookpoints)}; name one of them")
    if hookpoint is not None and hookpoint not in hookpoints:
        raise DataError(f"{path} has nothing of {hookpoint}; it has {', '.join(hookpoints)}")
    scorers = sorted(entry for entry in (path / "scores").iterdir()) if (path / "scores").is_dir() else []
    for name, index, file in sorted(found, key=lambda row: row[1]):
        if name != (hookpoint or hookpoints[0]):
            continue
        text = read_json(file)
        if not isinstance(text, str):
            raise DataError(f"{file} holds a {type(text).__name__}, not a text")
        scores = [
            (f"{DELPHI} {scorer.name}", score) for scorer in scorers if (score := _score(scorer, file)) is not None
        ]
        yield index, Said(text, DELPHI, "", tuple(scores))


def _named(file: Path) -> re.Match[str] | None:
    return LATENT.fullmatch(file.name)


def _score(scorer: Path, explained: Path) -> float | None:
    """Score of a feature by one scorer; None where it has none."""
    file = scorer / explained.name.replace("/", "--")
    if not file.is_file():
        return None
    rows = read_json(file)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return None
    if all("similarity" in row for row in rows):
        firing = np.array([float(row.get("distance") or 0) > 0 for row in rows])
        return _auroc(np.array([float(row["similarity"]) for row in rows]), firing)
    if all("activating" in row for row in rows):
        right = [
            row.get("prediction") is not None and bool(row["prediction"]) == bool(row["activating"]) for row in rows
        ]
        return sum(right) / len(right)
    return None


def _auroc(value: np.ndarray, positive: np.ndarray) -> float | None:
    if positive.all() or not positive.any():
        return None
    order = np.argsort(value, kind="stable")
    rank = np.empty(len(value))
    rank[order] = np.arange(1, len(value) + 1)
    for same in np.unique(value):  # ties share their ranks
        rank[value == same] = rank[value == same].mean()
    n, m = positive.sum(), (~positive).sum()
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * m))
