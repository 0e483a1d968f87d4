"""Search over features: words, letters, regular expressions, tokens, logits, contexts, meaning, directions."""

from __future__ import annotations

from monoscope.features.search.embedder import Embedder, LocalEmbedder, packaged
from monoscope.features.search.records import MODES, Found, Hit, Mode
from monoscope.features.search.search import Search

__all__ = ["MODES", "Embedder", "Found", "Hit", "LocalEmbedder", "Mode", "Search", "packaged"]
