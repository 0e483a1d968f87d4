"""The verbs at work on a tiny model: what they write, and how they fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import Call

from monoscope.core.config import read_toml
from monoscope.dictionaries import load
from monoscope.features import FeatureBundle
from monoscope.harvest import ActivationStore

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_harvest_then_train_on_the_store(call: Call, harvest_config: Path, tmp_path: Path) -> None:
    done = call("harvest", harvest_config, "--out", "deep/acts", "--set", "store_dtype=bf16", "--json")
    assert done.code == 0, done.err
    store = ActivationStore(tmp_path / "deep" / "acts")
    assert done.result["tokens"] == store.n_tokens > 1000
    assert done.result["widths"] == {"0.resid_post": 16}
    assert read_toml(store.path / "harvest.toml")["store_dtype"] == "bf16"
    info = call("info", "deep/acts", "--verify", "--json").result
    assert (info["kind"], info["dtype"], info["verified"]) == ("activations", "bf16", True)

    (tmp_path / "stored.toml").write_text(
        'activations = "deep/acts"\n[recipe]\nwiring = {kind = "autoencoder", n_features = 48}\n'
        'function = {kind = "topk", k = 4}\n[training]\ntokens = 1000\nbatch_tokens = 100\nshuffle_tokens = 1000\n'
    )
    trained = call("train", "stored.toml", "--out", "sae")
    assert trained.code == 0, trained.err
    assert load(tmp_path / "sae").n_features == 48


def test_train_on_a_model_as_it_reads(call: Call, train_config: Path, tmp_path: Path) -> None:
    done = call("train", train_config, "--out", "sae", "--set", "recipe.function.k=5", "--json")
    assert done.code == 0, done.err
    (summary,) = done.result["dictionaries"].values()
    assert summary["l0"] <= 5
    assert summary["tokens"] == 2000
    assert 0 < summary["fvu"] < 1
    dictionary = load(tmp_path / "sae")
    acts = dictionary.encode(torch.randn(3, 16))
    assert acts.l0().tolist() == [5, 5, 5]
    assert (tmp_path / "sae" / "metrics.jsonl").is_file()
    info = call("info", "sae", "--verify")
    assert info.code == 0
    assert "verified" in info.out
    assert "0.resid_post" in info.out


def test_a_sweep_trains_side_by_side(call: Call, train_config: Path, tmp_path: Path) -> None:
    with train_config.open("a") as file:
        file.write("[sweep.small.recipe.function]\nk = 2\n")
        file.write("[sweep.threshold]\nrecipe.function = {kind = 'batch_topk', k = 3}\ntraining.optimizer.lr = 0.001\n")
    done = call("train", train_config, "--out", "sweep", "--json")
    assert done.code == 0, done.err
    assert list(done.result["dictionaries"]) == ["sweep/small", "sweep/threshold"]
    assert load(tmp_path / "sweep" / "small").encode(torch.randn(1, 16)).l0().item() == 2
    training = read_toml(tmp_path / "sweep" / "training.toml")
    assert training["runs"]["threshold"]["training"]["optimizer"]["lr"] == 0.001
    assert call("info", "sweep", "--json").result["state"] == "finished"


def test_each_of_a_sweep_may_have_sites_and_a_wiring_of_its_own(call: Call, train_config: Path, tmp_path: Path) -> None:
    text = train_config.read_text().replace('reads = ["0.resid_post"]\n', "")
    train_config.write_text(
        text
        + '[sweep.early]\nreads = ["0.resid_post"]\n[sweep.mlp]\nreads = ["1.mlp_in"]\nwrites = ["1.mlp_out"]\n'
        + "recipe.wiring.skip = true\n"
    )
    done = call("train", train_config, "--out", "sweep")
    assert done.code == 0, done.err
    early, mlp = (load(tmp_path / "sweep" / name) for name in ("early", "mlp"))
    assert [str(site) for site in (*early.reads, *early.writes)] == ["0.resid_post", "0.resid_post"]
    assert [str(site) for site in (*mlp.reads, *mlp.writes)] == ["1.mlp_in", "1.mlp_out"]
    train_config.write_text(train_config.read_text() + "[sweep.nowhere.recipe]\nfunction.k = 3\n")
    done = call("train", train_config, "--out", "other")
    assert done.code == 2
    assert "sweep.nowhere: reads: name the site to read" in done.err


def test_a_recipe_that_asks_the_model_is_given_it(call: Call, train_config: Path, tmp_path: Path) -> None:
    end_to_end = ("--set", "recipe.terms.predictions={kind='end_to_end', weight=1.0}", "--set", "training.tokens=600")
    done = call("train", train_config, "--out", "e2e", *end_to_end, "--json")
    assert done.code == 0, done.err
    assert "predictions" in load(tmp_path / "e2e").provenance["trained_as"]["terms"]
    start = ("--set", 'reads=["1.mlp_in"]', "--set", 'writes=["1.mlp_out"]', "--set", "training.tokens=600")
    done = call("train", train_config, "--out", "mlp", *start, "--set", "recipe.initialize.directions=model")
    assert done.code == 0, done.err
    config = tmp_path / "stored.toml"
    config.write_text('activations = "acts"\n[recipe.terms]\na = {kind = "end_to_end"}\n')
    done = call("train", config, "--out", "stored")
    assert done.code == 2
    assert "train on a model as it reads, in place of acts" in done.err
    two = ("--set", "models={a='x', b='y'}", "--set", "model=bundled")
    done = call("train", train_config, "--out", "two", *two, *end_to_end)
    assert done.code == 2
    assert "name one model, in place of a, b" in done.err


def test_what_exists_is_kept_unless_forced(
    call: Call, train_config: Path, harvest_config: Path, tmp_path: Path
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "precious").write_text("")
    for verb, config in (("train", train_config), ("harvest", harvest_config)):
        done = call(verb, config, "--out", "kept")
        assert done.code == 1
        assert done.err == "error: kept exists; choose another place, or replace it with --force\n"
    assert (tmp_path / "kept" / "precious").exists()
    assert call("harvest", harvest_config, "--out", "kept", "--force").code == 0
    assert not (tmp_path / "kept" / "precious").exists()


@pytest.mark.parametrize(
    ("override", "code", "says"),
    [
        ("recipe.fuction.k=3", 2, "recipe: unknown key 'fuction'; did you mean 'function'?"),
        ("recipe.function.kind=topj", 2, "did you mean 'topk'"),
        ("recipe.function.k=49", 2, "49"),
        ("text.kind=datsets", 2, "did you mean 'datasets'"),
        ('text.paths=["absent.txt"]', 1, "absent.txt"),
        ('reads=["0.resid_pots"]', 2, "did you mean 'resid_post'"),
        ('reads=["5.resid_post"]', 1, "layers 0..1"),
        ("model=.", 1, "is not a model"),
        ("device=cuda:99", 2, "device: 'cuda:99' cannot be used here"),
        ("activations=acts", 2, "would have no effect"),
        ("reads=[]", 2, "reads: name the site"),
        ("sweep.a.recpe.k=1", 2, "sweep.a: unknown key 'recpe'"),
        ("sweep.a.recipe=3", 2, "sweep.a: recipe: "),
        ("sweep.a.recipe.wiring=3", 2, "sweep.a: recipe.wiring: "),
        ('sweep.a.reads=["9.resid_pots"]', 2, "unknown site kind 'resid_pots'"),
        ("sweep.a.recipe.function.j=1", 2, "sweep.a: recipe.function: unknown key 'j'"),
    ],
)
def test_what_cannot_be_trained(
    call: Call, train_config: Path, tmp_path: Path, override: str, code: int, says: str
) -> None:
    done = call("train", train_config, "--out", "sae", "--set", override)
    assert done.code == code, done.err
    assert says in done.err
    assert done.out == ""
    assert not (tmp_path / "sae").exists()


def test_text_without_a_token(call: Call, harvest_config: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("")
    done = call("harvest", harvest_config, "--out", "acts")
    assert done.code == 1
    assert done.err.startswith("error: ")
    assert not (tmp_path / "acts").exists()


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_weights(call: Call, train_config: Path, tmp_path: Path) -> None:
    settings = ("--set", "training.tokens=12000")
    assert call("train", train_config, "--out", "whole", *settings).code == 0
    command = [sys.executable, "-m", "monoscope", "train", str(train_config), "--out", "cut", *settings]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # the order of sums, and so the last bits, follow the threads
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=one_thread)
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted: stopped at step" in err
    assert call("info", "cut", "--json").result["state"] == "can be resumed"

    changed = call("train", train_config, "--out", "cut", *settings, "--set", "recipe.function.k=3", "--resume")
    assert changed.code == 1
    assert "function.k was 4, now 3" in changed.err
    changed = call("train", train_config, "--out", "cut", *settings, "--set", "skip.first=2", "--resume")
    assert changed.code == 1
    assert "source.skip.first was 1, now 2" in changed.err
    changed = call("train", train_config, "--out", "cut", *settings, "--set", "dtype=bf16", "--resume")
    assert changed.code == 1
    assert "source.model.fingerprint was" in changed.err

    assert call("train", train_config, "--out", "cut", *settings, "--resume").code == 0
    whole, cut = (load(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_dictionary_is_examined_as_it_was_trained(
    call: Call, train_config: Path, model: Path, tmp_path: Path
) -> None:
    assert call("train", train_config, "--out", "sae").code == 0
    (tmp_path / "held_out.txt").write_text("a dog is not a cat, and the rug is red. " * 50)
    config = tmp_path / "examine.toml"
    config.write_text('dictionary = "sae"\n')

    done = call("evaluate", config, "--out", "evaluation")
    assert done.code == 2
    assert "text: name text the dictionary was not trained on" in done.err
    assert not (tmp_path / "evaluation").exists()

    held_out = ("--set", "text={kind = 'files', paths = ['held_out.txt']}")
    done = call("evaluate", config, *held_out, "--out", "evaluation", "--json")
    assert done.code == 0, done.err
    assert done.result["same_model"] is True
    assert done.result["n_windows"] > 5
    kept = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert kept == done.result
    used = read_toml(tmp_path / "evaluation" / "evaluate.toml")
    assert (used["model"], used["context"]) == (str(model), 32)
    table = call("evaluate", config, *held_out)
    assert table.code == 0
    assert "ce recovered" in table.out
    assert call("evaluate", config, *held_out, "--out", "evaluation").code == 1

    done = call("analyze", config, "--out", "features.mono", "--json")
    assert done.code == 0, done.err
    assert done.result["features"] == 48
    bundle = FeatureBundle.open(tmp_path / "features.mono")
    assert bundle.manifest["data"]["dataset"] == {"kind": "files", "paths": ["text.txt"], "field": "text"}
    info = call("info", "features.mono", "--verify", "--json").result
    assert (info["kind"], info["verified"]) == ("features", True)
    assert call("analyze", config, "--out", "features.mono").code == 1


def test_another_model_is_refused_unless_asked_for(call: Call, train_config: Path, model: Path, tmp_path: Path) -> None:
    assert call("train", train_config, "--out", "sae").code == 0
    config = tmp_path / "examine.toml"
    config.write_text(f'dictionary = "sae"\ndtype = "bf16"\nmodel = "{model}"\n')
    done = call("analyze", config, "--out", "features.mono")
    assert done.code == 1
    assert "in bf16 has other weights" in done.err
    assert call("analyze", config, "--out", "features.mono", "--set", "any_model=true").code == 0


@pytest.mark.parametrize("example", ["train", "sweep", "finetuned"])
def test_examples_train(
    call: Call, model: Path, tuned: Path, harvest_config: Path, tmp_path: Path, example: str
) -> None:
    two = [f"models={{base='{model}', tuned='{tuned}'}}", 'reads=["1.resid_post@base", "1.resid_post@tuned"]']
    small = [
        *(two if example == "finetuned" else [f"model={model}", 'reads=["1.resid_post"]']),
        "text={kind = 'files', paths = ['text.txt']}",
        "context=32",
        "recipe.wiring.n_features=96",
        "training.tokens=1000",
        "training.batch_tokens=100",
        "training.shuffle_tokens=1000",
    ]
    done = call(
        "train", EXAMPLES / f"{example}.toml", "--out", "out", "--json", *(w for s in small for w in ("--set", s))
    )
    assert done.code == 0, done.err
    for path, summary in done.result["dictionaries"].items():
        assert load(tmp_path / path).n_features == 96
        assert summary["fvu"] > 0


def test_demo_shows_what_the_demo_returns(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(out: Path, *, force: bool) -> dict[str, object]:
        return {"FVU": 0.25, "page": out / "index.html", "force": force}

    monkeypatch.setattr("monoscope.demo.run.run", run)
    assert call("demo", "--json").result == {"FVU": 0.25, "page": "runs/demo/index.html", "force": False}
    assert call("demo", "--out", "x", "--force").out.splitlines() == [
        "FVU    0.25",
        "page   x/index.html",
        "force  True",
    ]


def test_nothing_to_resume(call: Call, train_config: Path) -> None:
    done = call("train", train_config, "--out", "sae", "--resume")
    assert done.code == 1
    assert "nothing to resume" in done.err


def test_info_tells_apart(call: Call, model: Path, tmp_path: Path) -> None:
    assert call("info", model, "--json").result["architecture"] == "llama"
    assert "which carries no checksums" in call("info", model, "--verify").err
    for content, says in [("{", "is not JSON"), ("[]", "holds a list"), ('{"schema": "x"}', "not one of monoscope's")]:
        (tmp_path / "manifest.json").write_text(content)
        done = call("info", tmp_path)
        assert done.code == 1
        assert says in done.err
    (tmp_path / "empty").mkdir()
    assert "an empty directory" in call("info", tmp_path / "empty").err
    (tmp_path / "notes").write_text("")
    assert "found a file" in call("info", tmp_path / "notes").err


def test_a_tampered_store_is_found_out(call: Call, harvest_config: Path, tmp_path: Path) -> None:
    assert call("harvest", harvest_config, "--out", "acts").code == 0
    shard = tmp_path / "acts" / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert json.loads(call("info", "acts", "--json").out)["kind"] == "activations"
    done = call("info", "acts", "--verify")
    assert done.code == 1
    assert "shard-00000.safetensors was changed" in done.err


def test_a_dictionary_that_cannot_be_is_refused_before_text_is_read(call: Call, train_config: Path) -> None:
    with train_config.open("a") as file:
        file.write("[sweep.wide.recipe.function]\nk = 100_000\n")
    done = call("train", train_config, "--out", "run")
    assert done.code == 2
    assert "sweep.wide: k is 100000, more than the dictionary's" in done.err
    assert "tokenize" not in done.err
