"""Search over a large bundle with a label for every feature: milliseconds of each kind of query, and of the index.

    python benchmarks/bench_search.py [--bundle LARGE.mono] [--model DIR] [--out benchmarks/results/bench_search.json]

Without a bundle, one of 16,384 features is made; ``large_bundle.py`` makes one of 131,072. Labels are drawn from words
of the bundle's own text with frequency 1 / rank, 3 to 9 words each, so that the most common word stands in most labels:
the hardest case for ranking. Without a model of sentences (all-MiniLM-L6-v2 from the extra ``semantic``, say), vectors
of its width are random, and what is measured is the product. Each query is typed anew, letter by letter, at the end of
its word; times are of the whole answer on the server, 50 hits with labels and snippets. Beside the time on the clock
stands that of the processor, which depends less on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from large_bundle import large_bundle

from monoscope.core.progress import Lines, reporting
from monoscope.features import FeatureBundle
from monoscope.features.search import Embedder, LocalEmbedder, Search
from monoscope.features.workspace import Workspace
from monoscope.features.workspace.records import ExplanationDraft

REPEATS = 15
Times = tuple[float, float]


class Random:
    """Vectors as wide as a small model's, of nothing."""

    width, fingerprint = 384, "random"

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Random vectors of length one."""
        out = self.rng.standard_normal((len(texts), self.width), dtype=np.float32)
        return out / np.linalg.norm(out, axis=1, keepdims=True)


def words_of(bundle: FeatureBundle, most: int = 20_000) -> list[str]:
    """Words of the bundle's sequences, the most common first."""
    vocabulary = bundle.vocabulary
    counts: Counter[str] = Counter()
    for row in bundle.tokens()[:2000]:
        counts.update(re.findall(r"[a-z]{2,}", "".join(vocabulary[token] for token in row.tolist()).lower()))
    return [word for word, _ in counts.most_common(most)]


def label_all(workspace: Workspace, bundle: FeatureBundle, words: list[str]) -> Times:
    """Give every feature a label; returns seconds, on the clock and of the processor."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, len(words) + 1)
    drawn = rng.choice(len(words), size=(len(bundle), 9), p=share / share.sum())
    lengths = rng.integers(3, 10, len(bundle))
    fingerprint = bundle.manifest["dictionary"]["fingerprint"]
    texts = (" ".join(words[i] for i in row[:n]) for row, n in zip(drawn, lengths, strict=True))
    rows = (
        (ExplanationDraft(dictionary_fp=fingerprint, feature=i, text=text, method="drawn"), [("drawn", 0.5)])
        for i, text in enumerate(texts)
    )
    return timed(lambda: workspace.explanations.add(rows))


def timed(work: Callable[[], Any]) -> Times:
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def quantiles(times: Sequence[Times]) -> dict[str, float]:
    clock, processor = 1000 * np.array(times).T
    return {
        "median_ms": round(float(np.median(clock)), 1),
        "p95_ms": round(float(np.quantile(clock, 0.95)), 1),
        "cpu_median_ms": round(float(np.median(processor)), 1),
        "cpu_p95_ms": round(float(np.quantile(processor, 0.95)), 1),
    }


def seconds(times: Times) -> dict[str, float]:
    return {"s": round(times[0], 1), "cpu_s": round(times[1], 1)}


def queries(words: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Queries of each kind, by its name."""
    common, rare = words[:5], words[2000 : 2000 + 5]
    typed = [word[:n] for word in (*words[10:15], *rare) for n in range(1, len(word) + 1)]
    return {
        "keystroke, lexical": [{"text": text} for text in typed],
        "words in most labels": [{"text": word, "mode": "prefix"} for word in common],
        "one letter": [{"text": letter, "mode": "prefix"} for letter in "aest"],
        "rare word": [{"text": word, "mode": "prefix"} for word in rare],
        "two words": [{"text": f"{a} {b}", "mode": "prefix"} for a, b in zip(common, rare, strict=True)],
        "exact phrase and contexts": [{"text": f"{a} {b}", "mode": "exact"} for a, b in zip(common, rare, strict=True)],
        "regular expression": [{"text": f"^{word}|{word}$", "mode": "regex"} for word in rare],
        "regular expression that backtracks": [{"text": "(a*)*(a|e)*b", "mode": "regex"}],
        "token and contexts": [{"text": word, "mode": "token"} for word in (*common, *rare)],
        "logit": [{"text": word, "mode": "logit"} for word in (*common, *rare)],
        "like a feature": [{"text": str(i), "mode": "like"} for i in range(0, 10_000, 2000)],
    }


def measure(search: Search, words: list[str]) -> dict[str, Any]:
    """Times of every kind of query."""
    found = {}
    for name, asked in queries(words).items():
        for one in asked:
            search.query(**one)
        repeats = max(1, REPEATS // len(asked))
        found[name] = quantiles([timed(lambda one=one: search.query(**one)) for one in asked for _ in range(repeats)])
    return found


def meaning(search: Search, words: list[str]) -> dict[str, Any]:
    """Times of a query by meaning, and of its parts."""
    vectors = search.index.meaning
    assert vectors is not None
    texts = [f"{a} that follow {b}" for a, b in zip(words[100:130], words[500:530], strict=True)]
    embedding = [timed(lambda text=text: vectors.embedder([text])) for text in texts]
    product = [timed(lambda: vectors.cosines("the same text")) for _ in range(REPEATS)]
    whole = [timed(lambda text=text: search.query(text, mode="semantic")) for text in texts]
    auto = [timed(lambda text=text: search.query(text)) for text in texts]
    return {
        "embed the query": quantiles(embedding[5:]),
        "product with all vectors": quantiles(product),
        "semantic, in all": quantiles(whole[5:]),
        "keystroke, lexical and semantic": quantiles(auto),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--model", type=Path, help="of sentences")
    parser.add_argument("--labels", action="store_true", help="embed the labels with the model, too: minutes")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, reporting(Lines(every=30)):
        root = Path(scratch)
        bundle = (
            FeatureBundle.open(options.bundle)
            if options.bundle is not None
            else large_bundle(root / "made.mono", 16_384, 300_000)[0]
        )
        embedder: Embedder = LocalEmbedder(options.model) if options.model and options.labels else Random()
        with Workspace.open(root / "workspace.db") as workspace:
            words = words_of(bundle)
            index: dict[str, Any] = {"take in labels": seconds(label_all(workspace, bundle, words))}
            search = Search(root / "search", workspace)
            search.add("large", bundle)
            index["build"] = seconds(timed(search.prepare))
            index["mb"] = round(sum(f.stat().st_size for f in (root / "search").rglob("*") if f.is_file()) / 2**20, 1)
            again = Search(root / "search", workspace)
            index["open"] = seconds(timed(lambda: again.add("large", bundle)))
            index["make ready"] = seconds(timed(again.prepare))
            times = measure(again, words)
            fingerprint = bundle.manifest["dictionary"]["fingerprint"]
            edits = []
            for feature in range(REPEATS):
                workspace.labels.write(fingerprint, feature, f"changed {feature}")
                edits.append(timed(lambda: again.query("changed", mode="prefix")))
            times["after a label changed"] = quantiles(edits)
            semantic = Search(root / "search", workspace, embedder)
            semantic.add("large", bundle)
            index["embed"] = seconds(timed(semantic.prepare))
            times |= meaning(semantic, words)
            if options.model is not None and not options.labels:
                model = LocalEmbedder(options.model)
                model(["warm"])
                times["embed the query"] = quantiles(
                    [timed(lambda i=i: model([f"{words[i]} that follow {words[i + 1]}"])) for i in range(30)]
                )
            for one in (search, again, semantic):
                one.close()
    result = {
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "features": len(bundle),
        "labels": len(bundle),
        "contexts": sum(f["rows"] for f in bundle.manifest["files"] if f["path"].startswith("contexts/")),
        "tokens": int(bundle.tokens().size),
        "vectors": "made by the model" if options.model and options.labels else "random, 384 wide",
        "index": index,
        "query": times,
    }
    print(json.dumps(result, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
