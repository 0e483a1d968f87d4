"""What the tests of the server share: a small bundle with hostile texts, and the token they use."""

from __future__ import annotations

from pathlib import Path

import pytest
from feature_worlds import Text, lookup, world

from monoscope.features import Analysis, FeatureBundle, analyze
from monoscope.features.vocabulary import Vocabulary

N_FEATURES, VOCABULARY = 300, 50
TOKEN = "a-token-that-only-the-tests-know-of"
HOSTILE = ("<script>alert(1)</script>", "=1+1", "\x00", "\u202e", "-", "@x", " cat", "\n", "\\xe2\\x86", "'\";--")


def hostile_bundle(path: Path, seed: int = 0) -> FeatureBundle:
    """300 features, ten of which never fire, on tokens whose texts are hostile."""
    tokens, table = world(N_FEATURES, 60, 32, VOCABULARY, seed=seed, density=0.03)
    table[:, 290:] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Vocabulary, "of", staticmethod(_vocabulary))
        return analyze(lookup(table), Text(tokens), path, config=Analysis(window=16))


def _vocabulary(tokenizer: object, n: int) -> Vocabulary:
    texts = (*HOSTILE, *(f"tok{i}" for i in range(n - len(HOSTILE))))
    return Vocabulary(tuple(text.encode() for text in texts), texts, (False,) * n)
