"""With the network cut all works as ever: the library, search, what is written, and the model's work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMESPACE = ["unshare", "--user", "--map-root-user", "--net"]
TESTS = (
    "test_home.py::test_cards_say_what_a_dictionary_is_and_lead_to_it",
    "test_feature.py::test_ones_own_text_runs_through_the_feature",
    "test_search.py::test_labels_are_found_while_typing_marked_and_opened",
)


def can_be_cut_off() -> bool:
    """Whether this system lets a process leave the network."""
    if shutil.which(NAMESPACE[0]) is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_be_cut_off(), reason="needs network namespaces")
def test_nothing_needs_the_network() -> None:
    script = HERE.parents[1] / "cut_off.py"
    done = subprocess.run(
        [*NAMESPACE, sys.executable, str(script), *(str(HERE / test) for test in TESTS)],
        cwd=HERE.parents[2],
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout.splitlines()[-1], done.stdout[-1000:]
