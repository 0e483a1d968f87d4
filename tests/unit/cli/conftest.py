"""A model, a text and configurations on disk, and a way to call the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Call, Called
from tiny_text_model import TEXT, tiny_lm, tiny_tokenizer
from typer.testing import CliRunner

from monoscope.cli.app import app


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs ``monoscope ARGUMENTS`` in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Called:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        return Called(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny model."""
    path = tmp_path_factory.mktemp("model")
    tiny_lm().hf.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a model like it, with other weights."""
    path = tmp_path_factory.mktemp("tuned")
    tiny_lm(1).hf.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def harvest_config(tmp_path: Path, model: Path) -> Path:
    """A harvest of the tiny model over a small text."""
    (tmp_path / "text.txt").write_text("".join(TEXT) * 40)
    path = tmp_path / "harvest.toml"
    path.write_text(
        f'model = "{model}"\ndevice = "cpu"\nsites = ["0.resid_post"]\ncontext = 32\n'
        'text = {kind = "files", paths = ["text.txt"]}\n'
    )
    return path


@pytest.fixture
def train_config(tmp_path: Path, harvest_config: Path) -> Path:
    """A short training on the same."""
    path = tmp_path / "train.toml"
    path.write_text(
        harvest_config.read_text().replace("sites", "reads")
        + "\n[recipe]\nwiring = {kind = 'autoencoder', n_features = 48}\nfunction = {kind = 'topk', k = 4}\n"
        "\n[training]\ntokens = 2000\nbatch_tokens = 100\nshuffle_tokens = 1000\nlog_every = 5\n"
    )
    return path
