"""What a test sees of a call of the command line, in its own process or in several of PyTorch's launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Called:
    """What a call left behind."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object on standard output."""
        return json.loads(self.out)


Call = Callable[..., Called]


def launching(processes: int, *arguments: object, restarts: int = 0) -> subprocess.Popen[str]:
    """A call by several processes, under way."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes)
    command = (sys.executable, *launcher, "--max-restarts", restarts, "-m", "monoscope", *arguments)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*map(str, command)], env=environment, text=True, **pipes)


def torchrun(processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A call by several processes, once all have ended."""
    launched = launching(processes, *arguments)
    out, err = launched.communicate()
    return subprocess.CompletedProcess(launched.args, launched.returncode, out, err)
