"""``python -m monoscope.server.worker FD``: the worker process. The server starts it; see ``worker.client``."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys


def main() -> None:
    """Serve tasks that come over an inherited socket until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is for the server, whose end closes the socket
    settings = json.loads(sys.argv[2])
    # A bundle names its model; opening a page must not download it.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from monoscope.server.worker.process import serve

    serve(socket.socket(fileno=int(sys.argv[1])), **settings)


main()
