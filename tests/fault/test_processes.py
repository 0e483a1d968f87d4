"""Real processes: two on one output, asked to stop once or twice, a terminal that is closed."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from monoscope.core import io
from monoscope.core.errors import OutputError
from monoscope.training.checkpoint import load_checkpoint

PATIENCE = 120.0
HOLD = """
import pathlib, sys, time
from monoscope.core.io import owned
with owned(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(120)
"""
TRAIN = """
import sys, torch
from small_training import FAST, RECIPE, activations
from monoscope.training import train
torch.set_num_threads(1)
try:
    train(RECIPE, activations(), out=sys.argv[1], **(FAST | {"tokens": 10**9}))
except KeyboardInterrupt as error:
    with open(sys.argv[1] + ".said", "w") as file:
        file.write(str(error))
    sys.exit(130)
"""


def python(code: str, *args: object, **options: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], env=environment, text=True, **options)  # type: ignore[call-overload]


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a directory."""
    with python(HOLD, tmp_path / "run", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_refuses_and_names_the_first(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    says = rf"run is in use by process {holder.pid} on {re.escape(os.uname().nodename)}$"
    with pytest.raises(OutputError, match=says), io.owned(tmp_path / "run"):
        pass
    for force in (False, True):
        with pytest.raises(OutputError, match=says):
            io.refuse_existing(tmp_path / "run", force=force)


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert (tmp_path / "run" / ".lock").read_text().startswith(str(holder.pid))
    with io.owned(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text().startswith(str(os.getpid()))


def test_a_directory_moved_away_takes_its_lock_along(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with io.owned(tmp_path / "run"), pytest.raises(OutputError, match="in use"), io.owned(tmp_path / "elsewhere"):
        pass


def started(out: Path, **options: object) -> subprocess.Popen[str]:
    """A training without end, under way."""
    process = python(TRAIN, out, **options)
    wait_until(lambda: process.poll() is not None or (out / "metrics.jsonl").exists())
    assert process.poll() is None
    return process


def assert_stopped(out: Path) -> None:
    """A training says at which step it stopped, and there is a checkpoint of that step."""
    found = re.match(r"stopped at step (\d+) of", Path(f"{out}.said").read_text())
    assert found
    assert load_checkpoint(out)["step"] == int(found[1]) > 0


@pytest.mark.slow
def test_a_closed_terminal_is_a_request_to_stop(tmp_path: Path) -> None:
    """The terminal hangs up, and whatever is written to it from then on fails."""
    ours, theirs = pty.openpty()

    def own_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may be under nohup
        os.setsid()
        os.close(os.open(os.ttyname(theirs), os.O_RDWR))  # the first terminal opened becomes the controlling one

    process = started(tmp_path / "run", stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=own_terminal)
    os.close(theirs)
    os.close(ours)
    assert process.wait(PATIENCE) == 130
    assert_stopped(tmp_path / "run")


@pytest.mark.slow
def test_under_nohup_a_closed_terminal_asks_nothing(tmp_path: Path) -> None:
    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    out = tmp_path / "run"
    process = started(out, stderr=subprocess.DEVNULL, preexec_fn=nohup)
    process.send_signal(signal.SIGHUP)
    size = (out / "metrics.jsonl").stat().st_size
    wait_until(lambda: (out / "metrics.jsonl").stat().st_size > size + 1000)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 130
    assert_stopped(out)


def test_a_second_request_ends_the_process_at_once() -> None:
    code = (
        "import os, signal, time\n"
        "from monoscope.core.interrupts import interruptible\n"
        "with interruptible() as received:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    while not received: pass\n"
        "    print('noted', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(120)\n"
    )
    with python(code, stdout=subprocess.PIPE) as process:
        out, _ = process.communicate(timeout=PATIENCE)
    assert out == "noted\n"
    assert process.returncode == -signal.SIGTERM


def test_interrupts_are_what_they_were_afterwards() -> None:
    from monoscope.core.interrupts import STOP, interruptible

    hung_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        before = [signal.getsignal(number) for number in STOP]
        with interruptible() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            while not received:
                pass
        assert received == [signal.SIGHUP]
        assert [signal.getsignal(number) for number in STOP] == before
    finally:
        signal.signal(signal.SIGHUP, hung_up)
