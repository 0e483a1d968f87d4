"""A search over a bundle of six features, and what stands for a model of sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from made_bundle import FP, make_bundle

from monoscope.core.progress import silent
from monoscope.features import FeatureBundle
from monoscope.features.search import Found, Search
from monoscope.features.workspace import Workspace

WORDS = [b"the", b" cat", b" sat", b" Cat", b"cat", b"\xf0\x9f", b"\x99\x82", b"(", b")", b" category", b"\0", b" dog"]
THE, CAT, SAT, UPPER, BARE, HALF, REST, OPEN, CLOSE, CATEGORY, NUL, DOG = range(12)
SEQUENCES = [
    [THE, CAT, SAT, DOG, HALF, REST],  # the cat sat dog🙂
    [THE, CATEGORY, OPEN, BARE, CLOSE, NUL, DOG],  # the category(cat)? dog
    [DOG, SAT],
]


class Meaning:
    """Two texts are alike as far as they share words; what a model would know is written down."""

    width, fingerprint = 64, "made"
    alike: ClassVar = {"feline": "cat", "kitten": "cat", "hound": "dog"}

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.seen += texts
        out = np.full((len(texts), self.width), 1e-6, np.float32)
        for row, text in zip(out, texts, strict=True):
            for word in text.lower().split():
                row[sum(map(ord, self.alike.get(word, word))) % self.width] += 1
        return out / np.linalg.norm(out, axis=1, keepdims=True)


def small(path: Path, **changes: Any) -> FeatureBundle:
    """Six features: 0 cats, 1 categories, 2 halves of an emoji, 3 brackets, 4 rare, 5 dead."""
    facts: dict[str, Any] = {
        "vocabulary": WORDS,
        "sequences": SEQUENCES,
        "density": [0.1, 0.2, 0.05, 0.3, 0.001, 0.0],
        "fires": {0: {CAT: 0.6, UPPER: 0.2, BARE: 0.1}, 1: {CATEGORY: 0.9}, 2: {HALF: 0.5, REST: 0.5}, 3: {OPEN: 1.0}},
        "logits": {0: {SAT: 2.0, DOG: -4.0}, 3: {CLOSE: 3.0}, 4: {SAT: 1.0}},
        "contexts": [
            (0, -2, 2, 0, 2, 0), (0, 0, 0, 0, 6, 1), (0, 1, 1, 0, 7, 3), (1, 0, 1, 0, 7, 1),
            (2, 0, 0, 1, 6, 4), (3, 0, 1, 1, 4, 2), (4, -1, 2, 0, 2, 0),
        ],
        "directions": np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0, 0, 2], [-1, 0, 0], [0, 0, 0]]),
    }  # fmt: skip
    return make_bundle(path, **facts | changes)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace in SQLite: to the index its kind makes no difference."""
    with Workspace.open(tmp_path / "workspace.db") as opened:
        yield opened


@pytest.fixture
def meaning() -> Meaning:
    return Meaning()


@pytest.fixture
def search(tmp_path: Path, workspace: Workspace, meaning: Meaning) -> Iterator[Search]:
    """The small bundle, labeled and indexed."""
    labels = ["cats, and what they do", "Catégories of things", "halves of 🙂", "opening (brackets)"]
    for feature, label in enumerate(labels):
        workspace.labels.write(FP, feature, label)
    made = Search(tmp_path / "search", workspace, meaning)
    made.add("small", small(tmp_path / "small.mono"))
    with silent():
        made.prepare()
    yield made
    made.close()


Ask = Callable[..., dict[int, str]]


@pytest.fixture
def ask(search: Search) -> Ask:
    """Features that a query finds, in order, and why."""

    def run(text: str, **options: Any) -> dict[int, str]:
        return {hit.feature: hit.why for hit in query(search, text, **options).hits}

    return run


def query(search: Search, text: str, **options: Any) -> Found:
    found = search.query(text, **options)
    scores = [hit.score for hit in found.hits]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)
    assert len({(hit.dictionary, hit.feature) for hit in found.hits}) == len(found.hits)
    for hit in found.hits:
        assert all(0 <= start < stop <= len(hit.snippet) for start, stop in hit.ranges)
    return found
