"""A model whose weights two processes share reads what one that holds them all reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import weights_run

from monoscope.demo import MODEL

pytestmark = pytest.mark.slow


def test_two_processes_share_the_weights_and_read_at_their_own_pace() -> None:
    """One reads four batches and the other two; a pass ends within the second block, of which no more is kept."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    path = os.pathsep.join([str(Path(weights_run.__file__).parent), *sys.path])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, *launcher, weights_run.__file__, str(MODEL)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for before, after in told["held"]:
        assert 2 * after == before
    assert told["found"] == [
        {"same": True, "batches": 4, "notes": 0, "known": True},
        {"same": True, "batches": 2, "notes": 0, "known": True},
    ]
