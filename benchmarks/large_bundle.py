"""A feature bundle as large as those of published dictionaries, on real text: what the interface is measured on.

    python benchmarks/large_bundle.py OUT.mono [--features 131072] [--tokens 2000000]

The features are planted, not trained: half of those active on a token are functions of the token, half of the token
and the one before it, drawn by hashing, so that a feature's contexts have something in common. Directions are random.
Everything else is the real thing: the text of the standard library, the bundled model's vocabulary and unembedding,
and the whole of `analyze`, whose rates are printed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.batch import ActivationBatch
from monoscope.core.site import Site
from monoscope.demo import MODEL
from monoscope.dictionaries import Autoencoder
from monoscope.dictionaries.variants import TopK
from monoscope.features import FeatureBundle, analyze
from monoscope.features.chance import draw
from monoscope.harvest import ActivationSource, StandardLibrary
from monoscope.harvest.text.pack import TokenWindows
from monoscope.models import LanguageModel

SITE = Site(2, "resid_post")
K = 32


class Planted(Autoencoder):
    """A dictionary whose activations are drawn from the token, ``x[0]``, and the one before it, ``x[1]``."""

    def encode(self, x: Tensor) -> Acts:
        """As many features as are active, some of them drawn twice and counted once."""
        token, before = x[:, 0].long().numpy(), x[:, 1].long().numpy()
        pair = token * 2**20 + before
        index = np.stack(
            [draw(j, token if j < K // 2 else pair) % np.uint64(self.n_features) for j in range(K)], axis=1
        )
        index = np.sort(index.astype(np.int64), axis=1)
        noise = draw(1, index.reshape(-1), np.repeat(np.arange(len(x)), K)).reshape(index.shape)
        value = np.exp(noise.astype(np.float64) / 2**64).astype(np.float32)
        value[:, 1:][index[:, 1:] == index[:, :-1]] = 0
        return Acts(torch.from_numpy(value), self.n_features, torch.from_numpy(index))


class Tokens(ActivationSource):
    """Windows of text; in place of activations, each token and the one before it."""

    def __init__(self, windows: TokenWindows, width: int) -> None:
        self.windows, self.sites, self.widths = windows, (SITE,), {SITE: width}
        self.n_tokens = int(windows.mask.sum())

    @property
    def info(self) -> dict[str, Any]:
        """Provenance."""
        return {"kind": "planted", **self.windows.info}

    def __iter__(self) -> Iterator[ActivationBatch]:
        for first in range(0, len(self.windows), 16):
            windows = self.windows[first : first + 16]
            x = torch.zeros(*windows.tokens.shape, self.widths[SITE])
            x[..., 0] = windows.tokens
            x[:, 1:, 1] = windows.tokens[:, :-1].float()
            yield ActivationBatch({SITE: x}, windows.tokens, windows.mask, documents=windows.documents)

    def state_dict(self) -> dict[str, Any]:
        """Not resumable."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Not resumable."""
        raise NotImplementedError


def large_bundle(out: Path, features: int, tokens: int) -> tuple[FeatureBundle, dict[str, Any]]:
    """Write the bundle; with it what it cost."""
    lm = LanguageModel.from_pretrained(MODEL)
    lm.name = "bundled"
    width = {SITE: lm.d_model}
    config = Autoencoder.Config(n_features=features, center=False)
    dictionary = Planted(config, TopK.Config(k=K).build(features), (SITE,), (SITE,), width)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.nn.functional.normalize(torch.randn(features, lm.d_model, generator=generator)))
        dictionary.W_enc.copy_(dictionary.W_dec.T)
    windows = StandardLibrary().windows(lm, tokens=tokens)
    source = Tokens(windows, lm.d_model)
    started = time.perf_counter()
    for batch in source:
        dictionary.encode(batch.flat().activations[SITE])
    encoding, started = time.perf_counter() - started, time.perf_counter()
    bundle = analyze(dictionary, source, out, lm=lm, force=True)
    seconds = time.perf_counter() - started
    size = sum(file["bytes"] for file in bundle.manifest["files"])
    return bundle, {
        "features": features,
        "tokens": source.n_tokens,
        "encode_s": round(encoding, 1),
        "analyze_s": round(seconds, 1),
        "features_per_s": round(features / seconds),
        "tokens_per_s": round(source.n_tokens / seconds),
        "bytes_per_feature": round(size / features),
        "bundle_mb": round(size / 2**20, 1),
    }


def latency(bundle: FeatureBundle, reads: int = 200) -> dict[str, float]:
    """Milliseconds to read all of one feature at random, contexts and tokens included: median and 95th percentile."""
    rng = np.random.default_rng(0)
    times = []
    for feature in rng.integers(0, len(bundle), reads):
        started = time.perf_counter()
        bundle.feature(int(feature))
        times.append(1000 * (time.perf_counter() - started))
    return {
        "read_ms_median": round(float(np.median(times)), 2),
        "read_ms_p95": round(float(np.quantile(times, 0.95)), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--features", type=int, default=131072)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--results", type=Path, help="JSON file of what it cost")
    options = parser.parse_args()
    _, cost = large_bundle(options.out, options.features, options.tokens)
    started = time.perf_counter()
    bundle = FeatureBundle.open(options.out)
    opening = round(1000 * (time.perf_counter() - started), 1)
    result = {"threads": torch.get_num_threads(), **cost, "open_ms": opening, **latency(bundle)}
    print(json.dumps(result, indent=1))
    if options.results is not None:
        options.results.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
