"""analyze: one pass over text, and every feature of a dictionary is described.

Memory holds no feature-by-token table: statistics are sums over sparse entries, and of contexts only bounded pools of
candidates are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from monoscope.core.config import Config
from monoscope.core.errors import DataError, MismatchError
from monoscope.core.io import fingerprint, refuse_existing
from monoscope.core.progress import progress
from monoscope.dictionaries import Dictionary
from monoscope.features.bundle import FeatureBundle
from monoscope.features.collectors.activity import Activity
from monoscope.features.collectors.coactivation import coactivation
from monoscope.features.collectors.contexts import ContextPool, lengths_of
from monoscope.features.collectors.negatives import negatives
from monoscope.features.collectors.sample import SequenceSample
from monoscope.features.collectors.selection import RULE, ContextTable, select
from monoscope.features.collectors.tokens import TokenStatistics
from monoscope.features.columns import Columns
from monoscope.features.firings import Firings
from monoscope.features.vocabulary import Vocabulary
from monoscope.features.weights.directions import directions, written
from monoscope.features.weights.logits import logit_effects
from monoscope.features.writer import Corpus, write_bundle
from monoscope.harvest import ActivationSource
from monoscope.models import LanguageModel


class Analysis(Config):
    """Settings of an analysis. Samples depend on the seed, the feature and the sequence, not on how text is batched."""

    tokens: int | None = Field(default=None, ge=1, description="stop after about this many; None reads the source out")
    window: int = Field(
        default=64, ge=4, description="tokens of a context, three quarters of them before its strongest"
    )
    intervals: int = Field(default=5, ge=1, description="equal-width bands of (0, max]")
    per_interval: int = Field(default=5, ge=0, description="contexts sampled from each")
    top: int = Field(default=30, ge=1, description="strongest contexts")
    random: int = Field(default=10, ge=0, description="contexts sampled among all where the feature fires")
    negative: int = Field(default=10, ge=0, description="contexts where it does not fire")
    seed: int = Field(default=0, ge=0)


@runtime_checkable
class Collector(Protocol):
    """Something learned about every feature while the corpus passes by once."""

    def update(self, firings: Firings) -> None:
        """Take in a batch."""


class _Pass:
    """The collectors, and what one pass over a source leaves in them."""

    def __init__(self, dictionary: Dictionary, config: Analysis) -> None:
        n = dictionary.n_features
        self.dictionary, self.config = dictionary, config
        self.activity = Activity(n, config.intervals)
        self.tokens = TokenStatistics(n)
        self.contexts = ContextPool(n, top=config.top, window=config.window, seed=config.seed)
        self.sample = SequenceSample(n, seed=config.seed)
        self.corpus = Corpus()
        self.skip_first: int | None = None

    @property
    def collectors(self) -> tuple[Collector, ...]:
        return self.activity, self.tokens, self.contexts, self.sample

    def run(self, source: ActivationSource) -> None:
        """Read the source. Raises DataError if it holds no tokens that count."""
        total = source.n_tokens
        if self.config.tokens is not None:
            total = self.config.tokens if total is None else min(total, self.config.tokens)
        with progress("analyze", total) as bar:
            for batch in source:
                firings = Firings.of(batch, self.dictionary, self.corpus.n_sequences)
                for collector in self.collectors:
                    collector.update(firings)
                self.corpus.add(firings.tokens, lengths_of(firings.counts), batch.documents)
                first = int(firings.counts.any(0).argmax())
                self.skip_first = first if self.skip_first is None else min(first, self.skip_first)
                bar.advance(firings.n_tokens)
                if self.config.tokens is not None and self.activity.n_tokens >= self.config.tokens:
                    break
        if not self.activity.n_tokens:
            raise DataError("there is nothing to analyze: the source has no tokens that count")


def analyze(
    dictionary: Dictionary,
    source: ActivationSource,
    out: Path | str,
    *,
    lm: LanguageModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    config: Analysis = Analysis(),  # noqa: B008  (frozen)
    stats: dict[str, float] | None = None,
    force: bool = False,
) -> FeatureBundle:
    """Describe every feature of a dictionary by one pass over a source of whole sequences; write and open the bundle.

    lm: the model, for promoted and suppressed tokens and for its tokenizer; without it, logit effects are left out
    tokenizer: gives tokens their text where there is no model; without either, tokens are their numbers
    stats: measurements to record in the manifest: fvu, ce_recovered (l0 and dead_share are measured here)

    Raises OutputError if ``out`` exists, unless ``force``; MismatchError for a source that lacks the dictionary's sites
    or yields tokens out of their sequences; DataError for activations that are not finite.
    """
    out = Path(out)
    refuse_existing(out, force=force)
    if written(dictionary) is None:
        raise MismatchError(f"features of a {type(dictionary).__name__} are maps, and a bundle describes directions")
    dictionary = dictionary.frozen()
    run = _Pass(dictionary, config)
    run.run(source)
    with progress("describe features", None, "steps"):
        columns, contexts = _describe(run, dictionary, lm)
        tokenizer = tokenizer if lm is None else lm.tokenizer
        vocabulary = Vocabulary.of(tokenizer, max(run.corpus.highest + 1, _highest_token(columns) + 1))
        write_bundle(
            out,
            columns=columns,
            contexts=contexts,
            corpus=run.corpus,
            vocabulary=vocabulary,
            decoder=written(dictionary),
            facts=_facts(run, dictionary, source, lm, vocabulary, stats or {}),
            force=force,
        )
    return FeatureBundle.open(out)


def _describe(run: _Pass, dictionary: Dictionary, lm: LanguageModel | None) -> tuple[Columns, ContextTable]:
    config = run.config
    columns = run.activity.finish() | run.tokens.finish()
    alive = ~columns.scalars["is_dead"]
    chosen = select(
        run.contexts,
        run.corpus.lengths,
        n=config.intervals,
        per_interval=config.per_interval,
        top=config.top,
        random=config.random,
    )
    sample = run.sample.finish()
    silent = negatives(
        sample, chosen, columns.lists["token_ids"], alive, n=config.negative, window=config.window, seed=config.seed
    )
    columns |= coactivation(sample) | directions(dictionary, alive) | logit_effects(dictionary, lm)
    return columns, ContextTable.join([chosen, silent])


def _highest_token(columns: Columns) -> int:
    return max(int(columns.lists[name].values.max(initial=0)) for name in ("pos_tokens", "neg_tokens"))


def _facts(
    run: _Pass,
    dictionary: Dictionary,
    source: ActivationSource,
    lm: LanguageModel | None,
    vocabulary: Vocabulary,
    stats: dict[str, float],
) -> dict[str, Any]:
    """The manifest's keys that are not about files."""
    info, config, activity = dict(source.info), run.config, run.activity
    settings = config.to_dict()
    about = _about_dictionary(dictionary)
    model = {"kind": "model", "fingerprint": info.get("model", {}).get("fingerprint")}
    return {
        "license": None,
        "cite": None,
        "dictionary": about,
        "model": _about_model(info, lm, vocabulary),
        "data": _about_data(run, info),
        "analysis": {"config": settings, "config_hash": fingerprint(settings)},
        "intervals": {
            "n": config.intervals,
            "per_interval": config.per_interval,
            "top": config.top,
            "random": config.random,
            "negative": config.negative,
            "rule": RULE,
        },
        "stats": {
            "fvu": stats.get("fvu"),
            "l0": float(activity.n_fired.sum() / activity.n_tokens),
            "dead_share": float(np.mean(activity.n_fired == 0)),
            "ce_recovered": stats.get("ce_recovered"),
        },
        "inputs": [
            {"kind": "dictionary", "fingerprint": about["fingerprint"]},
            *([model] if model["fingerprint"] is not None else []),
        ],
    }


def _about_dictionary(dictionary: Dictionary) -> dict[str, Any]:
    shape = dictionary.config_dict()
    return {
        "fingerprint": dictionary.fingerprint(),
        "wiring": shape["wiring"]["kind"],
        "function": shape["function"]["kind"],
        "n_features": dictionary.n_features,
        "d_model": dictionary.widths[dictionary.writes[-1]],
        "k": shape["function"].get("k"),
        "reads": [str(site) for site in dictionary.reads],
        "writes": [str(site) for site in dictionary.writes],
        "source": None,
        "license": None,
    }


def _about_model(info: dict[str, Any], lm: LanguageModel | None, vocabulary: Vocabulary) -> dict[str, Any]:
    model = info.get("model", {})
    return {
        "id": model.get("name") if lm is None else lm.name,
        "revision": None,
        "fingerprint": model.get("fingerprint"),
        "tokenizer": info.get("tokenizer"),
        "tokenizer_revision": None,
        "vocab_size": len(vocabulary),
        "n_layers": None if lm is None else lm.n_layers,
        "d_model": None if lm is None else lm.d_model,
        "dtype": info.get("dtype"),
    }


def _about_data(run: _Pass, info: dict[str, Any]) -> dict[str, Any]:
    text = info.get("text")
    return {
        "dataset": text,
        "revision": None,
        "split": text.get("split") if isinstance(text, dict) else None,
        "n_tokens": run.activity.n_tokens,
        "n_sequences": run.corpus.n_sequences,
        "context_length": run.corpus.context_length,
        "packing": info.get("packing", info.get("bos")),
        "skip_first": run.skip_first,
        "seed": run.config.seed,
        "source": info,
    }
