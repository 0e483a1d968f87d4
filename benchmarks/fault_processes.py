"""Processes of the command line that may be killed, forked from one that has everything imported: a start is cheap."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers.conversion_mapping
import transformers.models.llama.modeling_llama
import transformers.models.llama.tokenization_llama  # noqa: F401

import monoscope.cli.configs  # what verbs import when they run is loaded once, here
import monoscope.features
import monoscope.formats
import monoscope.training  # noqa: F401
from monoscope.cli.app import app

torch.set_num_threads(1)
PATIENCE = 120.0  # seconds


@dataclass
class Process:
    """A process under way or ended."""

    pid: int
    log: Path
    started: float = field(default_factory=time.monotonic)
    code: int | None = None

    @property
    def said(self) -> str:
        """Its standard output and error."""
        return self.log.read_text(errors="replace")

    def ended(self) -> bool:
        """Whether it has ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code, negative for a signal; after ``seconds`` it is killed, and that is an error."""
        deadline = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"a process did not end in {seconds} s; it said:\n{self.said}")
            time.sleep(0.002)
        assert self.code is not None
        return self.code

    def send(self, number: int, after: float = 0.0) -> bool:
        """Send a signal some seconds after the start. False if the process had ended by then."""
        while time.monotonic() < self.started + after:
            if self.ended():
                return False
            time.sleep(min(0.002, max(0.0, self.started + after - time.monotonic())))
        if self.ended():
            return False
        os.kill(self.pid, number)
        return True


def start(directory: Path, args: Sequence[str], prepare: Callable[[], None] = lambda: None) -> Process:
    """``monoscope ARGS`` in a directory, in a process of its own; ``prepare`` runs there before it."""
    log = directory / f"said-{time.monotonic_ns()}.txt"
    pid = os.fork()
    if pid:
        return Process(pid, log)
    code = 70
    try:
        os.setsid()
        os.chdir(directory)
        out = os.open(log, os.O_WRONLY | os.O_CREAT, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        prepare()
        app(list(args))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


COMMITS = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")


def die_at(number: int, counted: Path | None = None) -> Callable[[], None]:
    """What makes a process kill itself right before the ``number``-th call that changes which files there are.

    counted: a file that says how many such calls there were, for a process that lived
    """

    def prepare() -> None:
        calls = 0

        def wrapped(name: str) -> None:
            original = getattr(os, name)

            def call(*args: object, **options: object) -> object:
                nonlocal calls
                calls += 1
                if calls == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                if counted is not None:
                    counted.write_text(str(calls))
                return original(*args, **options)

            setattr(os, name, call)

        for name in COMMITS:
            wrapped(name)

    return prepare
