"""Text sources: where documents come from, as configuration.

    kind = "files"              paths and globs: .txt, .jsonl, .jsonl.gz, .parquet
    kind = "datasets"           a Hugging Face dataset, from the hub or a local directory
    kind = "standard_library"   the sources of the running Python's standard library
    kind = "sampled"            text that the model writes itself
    kind = "conversations"      chats in the model's own template, see ``conversations``

``build(lm)`` gives the documents, one string at a time and from the start each time it is iterated; ``windows(lm)``
gives them tokenized and packed.
"""

from __future__ import annotations

from monoscope.harvest.text.conversations import Conversations
from monoscope.harvest.text.pack import TokenWindows
from monoscope.harvest.text.sources import Datasets, Files, Sampled, StandardLibrary, TextSource

__all__ = ["Conversations", "Datasets", "Files", "Sampled", "StandardLibrary", "TextSource", "TokenWindows"]
