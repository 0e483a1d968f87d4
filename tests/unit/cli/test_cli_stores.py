"""The verbs at work in a store elsewhere: from text to features, nothing of which is left on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import torch
from command_line import Call, launching, torchrun
from object_store import s3 as s3

import monoscope
from monoscope.core.errors import DataError, OutputError
from monoscope.core.stores import claims
from monoscope.core.stores.claims import CLAIM
from monoscope.core.stores.remote import Remote
from monoscope.dictionaries import load
from monoscope.features import FeatureBundle
from monoscope.formats.open import open as open_reference
from monoscope.harvest.text.pack import TokenWindows


@pytest.fixture
def place(s3: str) -> str:
    return f"{s3}/{uuid.uuid4().hex}"


def test_from_text_to_features(
    call: Call, harvest_config: Path, train_config: Path, place: str, tmp_path: Path
) -> None:
    done = call("harvest", harvest_config, "--out", f"{place}/acts", "--set", "shard_tokens=500", "--json")
    assert done.code == 0, done.err
    assert done.result["store"] == f"{place}/acts"
    assert done.result["shards"] > 3
    info = call("info", f"{place}/acts", "--verify", "--json").result
    assert (info["kind"], info["verified"], info["n_tokens"]) == ("activations", True, done.result["tokens"])

    table = train_config.read_text()
    (tmp_path / "stored.toml").write_text(f'activations = "{place}/acts"\n' + table[table.index("[recipe]") :])
    trained = call("train", "stored.toml", "--out", f"{place}/sae", "--json")
    assert trained.code == 0, trained.err
    assert trained.result["dictionaries"][f"{place}/sae"]["tokens"] == 2000
    assert set(Remote(f"{place}/sae").sizes()) == {
        "config.toml",
        "weights.safetensors",
        "training.toml",
        "metrics.jsonl",
    }
    assert call("info", f"{place}/sae", "--json").result["log"]["tokens"] == 2000
    again = call("train", "stored.toml", "--out", f"{place}/sae")
    assert again.code == 1
    assert f"{place}/sae exists" in again.err

    (tmp_path / "examine.toml").write_text(
        f'dictionary = "{place}/sae"\nmodel = "{harvest_config.read_text().split(chr(34))[1]}"\nany_model = true\n'
        'context = 32\ntext = {kind = "files", paths = ["text.txt"]}\ntext_tokens = 1000\n'
    )
    analyzed = call("analyze", "examine.toml", "--out", f"{place}/features.mono", "--json")
    assert analyzed.code == 0, analyzed.err
    bundle = FeatureBundle.open(f"{place}/features.mono")
    assert len(bundle) == 48
    bundle.verify()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "examine.toml", "harvest.toml", "stored.toml", "text.txt", "train.toml"
    ]  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_goes_on_from_what_was_sent(
    call: Call, train_config: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine, as it were: the first one's files are gone with it."""
    longer = ("--set", "training.tokens=20000")
    assert call("train", train_config, "--out", tmp_path / "whole", *longer).code == 0
    script = (
        "import monoscope.core.stores.mirror as mirror, monoscope.core.stores.claims as claims; mirror.EVERY = 0.1; "
        "claims.BEAT = 0.1; import time; from monoscope.training.descent import Descent; advance = Descent.advance; "
        "Descent.advance = lambda *given: (time.sleep(0.1), advance(*given))[1]; "  # not done before it is killed
        "from monoscope.cli.app import main; main()"
    )
    slow = ("--out", f"{place}/run", *longer, "--set", "training.checkpoint_every=0")  # after every step
    command = [sys.executable, "-c", script, "train", train_config, *slow]
    first = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
    while not any("checkpoint" in name for name in Remote(f"{place}/run").sizes()):
        assert first.poll() is None, "ended before it was killed"
        time.sleep(0.02)
    monkeypatch.setattr(claims, "BEAT", 1.0)
    second = call("train", train_config, "--out", f"{place}/run", *longer, "--resume")
    assert second.code == 1
    assert f"is in use by process {first.pid} on" in second.err
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    with pytest.raises(DataError):
        load(f"{place}/run")
    assert call("info", f"{place}/run", "--json").result["state"] == "can be resumed"
    resumed = call("train", train_config, "--out", f"{place}/run", *longer, "--resume")
    assert resumed.code == 0, resumed.err
    whole, kept = load(tmp_path / "whole").state_dict(), load(f"{place}/run").state_dict()
    assert all(torch.equal(whole[name], kept[name]) for name in whole)
    assert not [name for name in Remote(f"{place}/run").sizes() if name == CLAIM or "checkpoint" in name]


def test_dictionaries_are_saved_and_opened_in_part(call: Call, place: str, train_config: Path, tmp_path: Path) -> None:
    assert call("train", train_config, "--out", "sae").code == 0
    dictionary = load(tmp_path / "sae")
    dictionary.save(f"{place}/set/one")
    with pytest.raises(OutputError, match="exists"):
        dictionary.save(f"{place}/set/one")
    dictionary.save(f"{place}/set/one", force=True)
    for name in ("one", ""):
        same = monoscope.load(f"{place}/set/{name}".rstrip("/"))
        assert all(torch.equal(same.state_dict()[key], x) for key, x in dictionary.state_dict().items())
    opened = open_reference(f"{place}/set/one")
    assert torch.allclose(opened.direction(17), dictionary.state_dict()["W_dec"][17])
    assert call("info", f"{place}/set/one", "--json").result["kind"] == "dictionary"
    missing = call("info", f"{place}/nothing")
    assert missing.code == 1
    assert f"there is nothing at {place}/nothing" in missing.err


def test_windows_are_saved_elsewhere(place: str) -> None:
    windows = TokenWindows.from_tokens(torch.arange(12).view(3, 4))
    windows.save(f"{place}/windows")
    assert torch.equal(TokenWindows.load(f"{place}/windows").tokens, windows.tokens)


@pytest.mark.slow
def test_processes_harvest_into_one_store_elsewhere(
    call: Call, harvest_config: Path, place: str, tmp_path: Path
) -> None:
    assert call("harvest", harvest_config, "--out", "alone").code == 0
    done = torchrun(2, "harvest", harvest_config, "--out", f"{place}/acts", "--set", "shard_tokens=500")
    assert done.returncode == 0, done.stderr

    def stored(path: Path | str) -> torch.Tensor:
        return torch.cat([x for batch in monoscope.ActivationStore(path) for x in batch.activations.values()])

    assert torch.equal(stored(f"{place}/acts"), stored(tmp_path / "alone"))


def kill_once(launched: subprocess.Popen[str], claim: Remote, is_time: Callable[[], bool]) -> None:
    """Kill the process that holds a claim, as a machine that fails kills, and wait until all is done by those after."""
    while not (is_time() and claim.is_file()):
        assert launched.poll() is None, launched.communicate()
        time.sleep(0.02)
    os.kill(int(json.loads(claim.read_bytes())["holder"].split()[0]), signal.SIGKILL)
    out, err = launched.communicate()
    assert launched.returncode == 0, err
    assert "exitcode: -9" in err
    assert len(out.splitlines()) == 1


@pytest.mark.slow
def test_a_killed_process_of_a_training_elsewhere_goes_on(
    call: Call, train_config: Path, place: str, tmp_path: Path
) -> None:
    settings = (
        "--set",
        "parallel.features=2",
        "--set",
        "training.tokens=6000",
        "--set",
        "training.checkpoint_every=0",
    )
    done = torchrun(2, "train", train_config, "--out", "whole", "--json", *settings)
    assert done.returncode == 0, done.stderr
    run = Remote(f"{place}/run")
    launched = launching(2, "train", train_config, "--out", run, "--json", *settings, restarts=1)

    def is_under_way() -> bool:
        return any(int(name[11:19]) > 3 for name in run.sizes() if name.endswith("state.json"))

    kill_once(launched, run / CLAIM, is_under_way)
    whole, kept = load(tmp_path / "whole").state_dict(), load(run).state_dict()
    assert all(torch.equal(whole[name], kept[name]) for name in whole)
    assert set(run.sizes()) == {"config.toml", "weights.safetensors", "training.toml", "metrics.jsonl"}
    rows = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows == sorted(set(rows))


@pytest.mark.slow
def test_a_killed_process_of_an_analysis_elsewhere_goes_on(
    call: Call, train_config: Path, place: str, tmp_path: Path
) -> None:
    assert call("train", train_config, "--out", "sae").code == 0
    (tmp_path / "examine.toml").write_text('dictionary = "sae"\nwindows_per_batch = 1\n')
    done = torchrun(2, "analyze", "examine.toml", "--out", "whole.mono", "--json")
    assert done.returncode == 0, done.stderr
    partial = Remote(f"{place}/features.mono.partial")
    launched = launching(2, "analyze", "examine.toml", "--out", f"{place}/features.mono", "--json", restarts=1)

    def second() -> Remote:
        (name,) = {name.partition("/")[0] for name in partial.sizes() if "-00001-of-00002" in name} or {"not-yet"}
        return partial / name / CLAIM

    while not second().is_file():
        assert launched.poll() is None, launched.communicate()
        time.sleep(0.02)
    kill_once(launched, second(), lambda: True)
    whole, found = (FeatureBundle.open(place) for place in (tmp_path / "whole.mono", f"{place}/features.mono"))
    sha = [{file["path"]: file["sha256"] for file in bundle.manifest["files"]} for bundle in (whole, found)]
    assert sha[0] == sha[1]
    assert not partial.exists()


def test_an_empty_bucket_is_named(s3: str) -> None:
    fsspec.filesystem("s3").mkdir("other-bucket")
    with pytest.raises(DataError, match="no activation store at s3://other-bucket/acts"):
        monoscope.ActivationStore("s3://other-bucket/acts")
