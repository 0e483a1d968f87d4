"""Time and memory of ``analyze``: beside harvest and encode alone, and on synthetic activations of many features.

    python benchmarks/bench_analyze.py                every part whose sources have changed
    python benchmarks/bench_analyze.py minilm         one part, again

A model: harvest and encode alone, then analyze, which does both too, in turns; the ratio is the price of the
description. The dictionary is one of the reference job, trained on 500k tokens. ``synthetic``: features fire
independently with frequencies that fall as 1 / rank^0.7 and strengths that are log-normal, on tokens drawn with
frequency 1 / rank. Every firing is another (feature, sequence) pair and nothing ever repeats, which is the hardest case
for the pools. Memory is that of the process while it analyzes, PyTorch included.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import Parts, Usage, record, wait_for_quiet
from peers.data import SITES, dictionary_of, model_of
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.batch import ActivationBatch
from monoscope.core.progress import Lines, reporting
from monoscope.core.site import Site
from monoscope.dictionaries import Autoencoder
from monoscope.dictionaries.variants import TopK
from monoscope.features import FeatureBundle, analyze
from monoscope.harvest import ActivationSource, StandardLibrary, live
from monoscope.models import LanguageModel

SITE = Site(2, "resid_post")
D, VOCAB, CONTEXT, SEQUENCES = 64, 32768, 256, 16
FEATURES, TOKENS = 16384, 500_000  # of the synthetic job
READ, TURNS = 300_000, 2  # of a model
PARTS = [*SITES, "synthetic"]


def zipf(n: int, exponent: float) -> np.ndarray:
    """Cumulative probabilities that fall as a power of the rank."""
    weight = np.arange(1, n + 1) ** -exponent
    return np.cumsum(weight / weight.sum())


class Planted(Autoencoder):
    """A dictionary whose activations are drawn, not computed."""

    def encode(self, x: Tensor) -> Acts:
        """As many distinct features as are active, drawn for each token."""
        k = 32
        if not hasattr(self, "drawn"):
            self.drawn, self.cumulative = np.random.default_rng(0), zipf(self.n_features, 0.7)
        index = np.searchsorted(self.cumulative, self.drawn.random((len(x), k))).clip(max=self.n_features - 1)
        value = np.exp(self.drawn.standard_normal((len(x), k), dtype=np.float32) * 0.5)
        order = np.sort(index, axis=1)
        value[:, 1:][order[:, 1:] == order[:, :-1]] = 0  # a feature drawn twice counts once
        return Acts(torch.from_numpy(value), self.n_features, torch.from_numpy(order))


class Words(ActivationSource):
    """Sequences of random tokens, with empty activations."""

    sites = (SITE,)
    widths: Mapping[Site, int] = {SITE: D}

    def __init__(self, tokens: int) -> None:
        self.n_tokens = tokens

    @property
    def info(self) -> dict[str, Any]:
        """Provenance."""
        return {"kind": "random words"}

    def __iter__(self) -> Iterator[ActivationBatch]:
        rng, cumulative = np.random.default_rng(1), zipf(VOCAB, 1.0)
        for _ in range(self.n_tokens // (CONTEXT * SEQUENCES)):
            tokens = np.searchsorted(cumulative, rng.random((SEQUENCES, CONTEXT))).clip(max=VOCAB - 1)
            x = torch.zeros(SEQUENCES, CONTEXT, D)
            yield ActivationBatch({SITE: x}, torch.from_numpy(tokens.astype(np.int32)))

    def state_dict(self) -> dict[str, Any]:
        """Not resumable."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Not resumable."""
        raise NotImplementedError


def forget_peak() -> None:
    """Let the peak start anew (Linux): what the comparison needed before is not what analyze needs."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_mb(field: str) -> float:
    """Resident memory of this process in MB: ``VmRSS`` now, ``VmHWM`` at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def synthetic(features: int, tokens: int, out: Path) -> dict[str, Any]:
    config = Autoencoder.Config(n_features=features, center=False, unit_norm=True)
    dictionary = Planted(config, TopK.Config(k=32).build(features), (SITE,), (SITE,), {SITE: D})
    torch.nn.init.normal_(dictionary.W_dec)
    source = Words(tokens)
    started = time.perf_counter()
    for batch in source:
        dictionary.encode(batch.flat().activations[SITE])
    drawing = time.perf_counter() - started
    forget_peak()
    before, started = memory_mb("VmRSS"), time.perf_counter()
    bundle = analyze(dictionary, source, out)
    seconds = time.perf_counter() - started
    return report(bundle, {"features": features, "encode_s": drawing, "analyze_s": seconds, "before_mb": before})


def real(name: str, out: Path) -> dict[str, Any]:
    """A model: harvest and encode, then analyze, in turns."""
    lm, dictionary = LanguageModel.from_pretrained(model_of(name)), dictionary_of(name)
    windows = StandardLibrary().windows(lm, context=CONTEXT, tokens=READ)
    source = live(lm, windows, [*dictionary.reads])
    encoding, analyzing = [], []
    for turn in range(TURNS):
        started = time.perf_counter()
        with torch.inference_mode():
            for batch in source:
                dictionary.encode(dictionary.gather(batch.flat())[0])
        encoding.append(time.perf_counter() - started)
        forget_peak()
        before, started = memory_mb("VmRSS"), time.perf_counter()
        bundle = analyze(dictionary, source, out / f"{turn}.mono", lm=lm)
        analyzing.append(time.perf_counter() - started)
    ratios = [whole / part for whole, part in zip(analyzing, encoding, strict=True)]
    facts = {"features": len(bundle), "harvest_encode_s": min(encoding), "analyze_s": min(analyzing)}
    row = report(bundle, {**facts, "before_mb": before})
    return row | {"ratio": round(min(analyzing) / min(encoding), 3), "ratios": [round(ratio, 3) for ratio in ratios]}


def report(bundle: FeatureBundle, facts: dict[str, Any]) -> dict[str, Any]:
    size = sum(file["bytes"] for file in bundle.manifest["files"])
    tokens = bundle.manifest["data"]["n_tokens"]
    contexts = sum(file["rows"] for file in bundle.manifest["files"] if file["path"].startswith("contexts/"))
    return {
        "tokens": tokens,
        **{name: round(value, 2) if isinstance(value, float) else value for name, value in facts.items()},
        "tokens_per_s": round(tokens / facts["analyze_s"]),
        "peak_mb": round(memory_mb("VmHWM")),
        "bundle_mb": round(size / 2**20, 1),
        "contexts_per_feature": round(contexts / len(bundle), 1),
    }


def measure(part: str) -> dict[str, Any]:
    """One part."""
    before, usage = wait_for_quiet(), Usage()
    with tempfile.TemporaryDirectory() as scratch, reporting(Lines(every=30)):
        if part == "synthetic":
            row = synthetic(FEATURES, TOKENS, Path(scratch) / "synthetic.mono")
        else:
            row = real(part, Path(scratch))
    others = [{"before": before, "mean": usage.others()}]
    return row | {"threads": torch.get_num_threads(), "others": others}


def main() -> None:
    """Measure what is asked for."""
    for part in Parts("analyze", PARTS, __doc__, typical=90):
        began = time.monotonic()
        row = measure(part)
        record("analyze", part, row | {"seconds": round(time.monotonic() - began)})
        print(part, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
