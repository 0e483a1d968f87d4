"""The command line as a whole: it answers at once, keeps its flags, and fails in the same way everywhere."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import Call
from typer.testing import CliRunner

import monoscope
from monoscope.cli.app import app
from monoscope.cli.session import session, show
from monoscope.core.errors import ConfigError, DataError, OutputError
from monoscope.core.progress import Lines, _current

FLAGS = {
    "harvest": ["--force", "--json", "--out", "--set"],
    "train": ["--force", "--json", "--out", "--resume", "--set"],
    "analyze": ["--force", "--json", "--out", "--set"],
    "evaluate": ["--force", "--json", "--out", "--set"],
    "demo": ["--force", "--json", "--out"],
    "convert": ["--choose", "--evaluation", "--force", "--format", "--json", "--model", "--public", "--set", "--to"],
    "serve": ["--host", "--json", "--open", "--port", "--set"],
    "info": ["--choose", "--format", "--json", "--model", "--set", "--verify"],
    "registry search": ["--json"],
    "registry show": ["--json"],
    "db upgrade": ["--json"],
    "db backup": ["--force", "--json", "--out"],
    "db move": ["--json"],
    "db explain": ["--bundle", "--hookpoint", "--json"],
}


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from monoscope.cli.app import app\n"
        "for verb in ([], *(name.split() for name in sys.argv[1:])):\n"
        "    app([*verb, '--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pyarrow', 'safetensors', 'fastapi', 'uvicorn', 'duckdb'}\n"
        "print(*sorted((heavy | {'monoscope.core.config'}) & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *FLAGS], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_help_takes_little_longer_than_what_draws_it() -> None:
    def spent(*arguments: str) -> float:
        """Seconds of a processor: time on the clock depends on who else is at work."""
        times = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(times)

    assert spent("-m", "monoscope", "--help") < 2.5 * spent("-c", "import typer.rich_utils")


def flags(verb: Any, name: str = "") -> dict[str, list[str]]:
    """Flags of every verb below a group."""
    if subverbs := getattr(verb, "commands", None):
        return {k: v for key, sub in subverbs.items() for k, v in flags(sub, f"{name} {key}".strip()).items()}
    known = (flag for option in verb.params for flag in option.opts)
    return {name: sorted(flag for flag in known if flag.startswith("--") and flag != "--help")}


def test_flags_are_few_and_frozen() -> None:
    assert flags(typer.main.get_command(app)) == FLAGS


def test_version(call: Call) -> None:
    assert call("--version").out == f"monoscope {monoscope.__version__}\n"


def test_unknown_verbs_and_missing_arguments_are_usage_errors(call: Call) -> None:
    wrong = call("trian")
    assert wrong.code == 2
    assert "Did you mean 'train'" in wrong.err
    assert call("train").code == 2
    assert call("train", "x.toml").code == 2
    assert call().code == 2


@pytest.mark.parametrize("verb", ["harvest", "train", "analyze", "evaluate"])
def test_a_configuration_that_is_not_there(call: Call, verb: str) -> None:
    done = call(verb, "nowhere.toml", "--out", "x")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: no configuration file at nowhere.toml\n"


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ConfigError("k is 9"), 2, "error: k is 9"),
        (DataError("no text"), 1, "error: no text"),
        (OutputError("full"), 1, "error: full"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("stopped at step 3"), 130, "interrupted: stopped at step 3; --resume goes on"),
    ],
)
def test_exit_codes(capsys: pytest.CaptureFixture[str], error: BaseException, code: int, says: str) -> None:
    with pytest.raises(typer.Exit) as caught, session(as_json=False):
        raise error
    assert caught.value.exit_code == code
    assert capsys.readouterr().err == says + "\n"


def test_errors_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), session(as_json=True):
        raise DataError("no text")
    assert json.loads(capsys.readouterr().err) == {"error": "DataError", "message": "no text"}


def test_mistakes_of_ours_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), session(as_json=False):
        raise ZeroDivisionError


def test_json_decides_where_progress_goes() -> None:
    with session(as_json=True):
        reporter = _current()
        assert isinstance(reporter, Lines)
        assert reporter.as_json


def test_results_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    show({"fvu": 0.123456, "inner": {"tokens": 1234567, "on": True}, "cite": None, "sites": ["a", "b"]}, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "fvu    0.1235",
        "inner",
        "  tokens  1,234,567",
        "  on      True",
        "sites  a, b",
    ]


def test_results_as_json_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    show({"fvu": float("nan"), "path": Path("x"), "l0": [1.5, float("inf")]}, as_json=True)
    assert capsys.readouterr().out == '{"fvu": null, "path": "x", "l0": [1.5, null]}\n'


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "monoscope", "info", "/nowhere"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: there is nothing at /nowhere\n")


def test_help_for_each_verb_is_one_sentence_or_two() -> None:
    for verb in FLAGS:
        text = CliRunner().invoke(app, [*verb.split(), "--help"]).stdout
        assert "Usage: " in text
        assert verb in text
