"""Indexes bundles for search: ``python -m monoscope.server.indexing``, with the task as JSON on standard input.

A process of its own, of low priority, so that pages stay quick while it works.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from monoscope.core.errors import UserError


def main() -> int:
    """Do what standard input says; 0 when it is done, 1 with the reason on standard error."""
    task = json.loads(sys.stdin.buffer.read())
    if hasattr(os, "nice"):
        os.nice(10)
    from monoscope.features.bundle import FeatureBundle
    from monoscope.features.search import LocalEmbedder, Search
    from monoscope.features.workspace import Workspace

    try:
        with Workspace.open(task["db"]) as workspace:
            embedder = None if task["embedder"] is None else LocalEmbedder(Path(task["embedder"]))
            search = Search(Path(task["directory"]), workspace, embedder)
            for name, path in task["bundles"].items():
                search.add(name, FeatureBundle.open(path))
                search.prepare([name])
            search.close()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
