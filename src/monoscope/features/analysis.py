"""analyze: one pass over text, and every feature of a dictionary is described.

Memory holds no feature-by-token table: statistics are sums over sparse entries, and of contexts only bounded pools of
candidates are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from monoscope.core.errors import MismatchError
from monoscope.core.io import fingerprint, refuse_existing
from monoscope.core.progress import progress
from monoscope.core.scratch import Scratch
from monoscope.core.stores.claims import claimed
from monoscope.core.stores.remote import Location, Remote, location, send
from monoscope.dictionaries import Dictionary
from monoscope.features.bundle import FeatureBundle
from monoscope.features.collectors.coactivation import coactivation
from monoscope.features.collectors.negatives import negatives
from monoscope.features.collectors.selection import RULE, ContextTable, select
from monoscope.features.columns import Columns
from monoscope.features.parts import Parts, beside
from monoscope.features.settings import Analysis
from monoscope.features.survey import LAYOUT, Survey, check_read
from monoscope.features.vocabulary import Vocabulary
from monoscope.features.weights.directions import directions, written
from monoscope.features.weights.logits import logit_effects
from monoscope.features.writer import write_bundle
from monoscope.harvest import ActivationSource
from monoscope.models import LanguageModel


def analyze(
    dictionary: Dictionary,
    source: ActivationSource,
    out: Location | str,
    *,
    lm: LanguageModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    config: Analysis = Analysis(),  # noqa: B008  (frozen)
    stats: dict[str, float] | None = None,
    ranks: int = 1,
    force: bool = False,
) -> FeatureBundle:
    """Describe every feature of a dictionary by one pass over a source of whole sequences; write and open the bundle.

    out: a directory, or the URL of one, where the bundle is sent once it is whole
    lm: the model, for promoted and suppressed tokens and for its tokenizer; without it, logit effects are left out
    tokenizer: gives tokens their text where there is no model; without either, tokens are their numbers
    stats: measurements to record in the manifest: fvu, ce_recovered (l0 and dead_share are measured here)
    ranks: processes that read a part each: this is the first, which waits for the others; see ``analyze_part``

    Interrupted, it saves what it has read beside ``out``, in ``OUT.partial``, and called again it goes on from there.

    Raises OutputError if ``out`` exists, unless ``force``; MismatchError for a source that lacks the dictionary's sites
    or yields tokens out of their sequences; DataError for activations that are not finite.
    """
    out = location(out)
    refuse_existing(out, force=force)
    with (
        _place(out) as bundle,
        _survey(dictionary, source, beside(out), 0, ranks, config, force=force) as (survey, parts),
    ):
        if ranks > 1:
            parts.wait()
            for number in range(1, ranks):
                other = Survey(survey.dictionary, config)
                with parts.read(number) as path:
                    other.load(path)
                survey.absorb(other)
        check_read(survey)
        with progress("describe features", None, "steps"):
            columns, contexts = _describe(survey, lm)
            tokenizer = tokenizer if lm is None else lm.tokenizer
            vocabulary = Vocabulary.of(tokenizer, max(survey.corpus.highest + 1, _highest_token(columns) + 1))
            write_bundle(
                bundle,
                columns=columns,
                contexts=contexts,
                corpus=survey.corpus,
                vocabulary=vocabulary,
                decoder=written(survey.dictionary),
                facts=_facts(survey, source, lm, vocabulary, stats or {}),
                force=force,
            )
        if isinstance(out, Remote):
            send(bundle, out)
    parts.remove()
    return FeatureBundle.open(out)


def analyze_part(
    dictionary: Dictionary,
    source: ActivationSource,
    out: Location | str,
    rank: int,
    ranks: int,
    *,
    config: Analysis = Analysis(),  # noqa: B008  (frozen)
) -> None:
    """Read the part of process ``rank`` of an analysis by several, and leave it for the first of them, which writes.

    ``source`` is the whole; each process reads another of its parts.
    """
    assert 0 < rank < ranks, f"the first process calls analyze; the others are 1 to {ranks - 1}, found {rank}"
    with _survey(dictionary, source, beside(location(out)), rank, ranks, config, force=False):
        pass


@contextmanager
def _place(out: Location) -> Iterator[Path]:
    """Where the bundle is written, on this machine."""
    if isinstance(out, Path):
        yield out
        return
    with claimed(out), Scratch() as place:
        yield place / "bundle"


@contextmanager
def _survey(
    dictionary: Dictionary,
    source: ActivationSource,
    partial: Location,
    rank: int,
    ranks: int,
    config: Analysis,
    *,
    force: bool,
) -> Iterator[tuple[Survey, Parts]]:
    """The survey of a part, read to its end; within the block no other process may read that part."""
    if written(dictionary) is None:
        raise MismatchError(f"features of a {type(dictionary).__name__} are maps, and a bundle describes directions")
    dictionary = dictionary.frozen()
    fixed = {key: value for key, value in source.info.items() if key != "excluded"}
    job = {"layout": LAYOUT, "dictionary": dictionary.fingerprint(), "source": fixed, "config": config.to_dict()}
    parts = Parts(partial, job, ranks)
    own = source if ranks == 1 else source.part(rank, ranks)
    survey = Survey(dictionary, config, own.first_row)
    tokens = None if config.tokens is None else -(-config.tokens // ranks)
    title = "analyze" if ranks == 1 else f"analyze part {rank + 1} of {ranks}"
    with parts.reading(rank, force=force) as path:
        survey.read(own, tokens=tokens, title=title, path=path)
        if ranks > 1:
            survey.save(path)
        yield survey, parts


def _describe(survey: Survey, lm: LanguageModel | None) -> tuple[Columns, ContextTable]:
    config, dictionary = survey.config, survey.dictionary
    columns = survey.activity.finish() | survey.tokens.finish()
    alive = ~columns.scalars["is_dead"]
    chosen = select(
        survey.contexts,
        survey.corpus.lengths,
        n=config.intervals,
        per_interval=config.per_interval,
        top=config.top,
        random=config.random,
    )
    sample = survey.sample.finish()
    silent = negatives(
        sample, chosen, columns.lists["token_ids"], alive, n=config.negative, window=config.window, seed=config.seed
    )
    columns |= coactivation(sample) | directions(dictionary, alive) | logit_effects(dictionary, lm)
    return columns, ContextTable.join([chosen, silent])


def _highest_token(columns: Columns) -> int:
    return max(int(columns.lists[name].values.max(initial=0)) for name in ("pos_tokens", "neg_tokens"))


def _facts(
    survey: Survey,
    source: ActivationSource,
    lm: LanguageModel | None,
    vocabulary: Vocabulary,
    stats: dict[str, float],
) -> dict[str, Any]:
    """The manifest's keys that are not about files."""
    config, activity = survey.config, survey.activity
    info = {**source.info, **({} if survey.excluded is None else {"excluded": survey.excluded})}
    settings = config.to_dict()
    about = _about_dictionary(survey.dictionary)
    model = {"kind": "model", "fingerprint": info.get("model", {}).get("fingerprint")}
    return {
        "license": None,
        "cite": None,
        "dictionary": about,
        "model": _about_model(info, lm, vocabulary),
        "data": _about_data(survey, info),
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
        "source": _opened_from(dictionary),
        "license": None,
    }


def _opened_from(dictionary: Dictionary) -> dict[str, Any] | None:
    """Where somebody else's files were, so that they are found again; None for a dictionary of our own."""
    opened = dictionary.provenance.get("opened")
    return opened and {name: opened[name] for name in ("where", "entry", "layout", "chosen") if name in opened}


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


def _about_data(survey: Survey, info: dict[str, Any]) -> dict[str, Any]:
    text = info.get("text")
    return {
        "dataset": text,
        "revision": None,
        "split": text.get("split") if isinstance(text, dict) else None,
        "n_tokens": survey.activity.n_tokens,
        "n_sequences": survey.corpus.n_sequences,
        "context_length": survey.corpus.context_length,
        "packing": info.get("packing", info.get("bos")),
        "skip_first": survey.skip_first,
        "seed": survey.config.seed,
        "source": info,
    }
