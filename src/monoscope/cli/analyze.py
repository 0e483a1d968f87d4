"""``monoscope analyze``: what the features of a dictionary are."""

from __future__ import annotations

from functools import partial
from typing import Any

from monoscope.cli.session import ConfigFile, Force, Json, Out, Overrides, session, show


def analyze(
    config: ConfigFile, out: Out, overrides: Overrides = None, force: Force = False, as_json: Json = False
) -> None:
    """Describe every feature of a dictionary: when it fires, what it promotes, and its contexts.

    Under torchrun each process reads a part of the text, and the first writes. Called again, it goes on.
    """
    with session(as_json=as_json):
        from monoscope.cli import memory
        from monoscope.cli.configs import AnalyzeConfig
        from monoscope.core.io import refuse_existing, write_text
        from monoscope.core.progress import silent
        from monoscope.core.ranks import rank_and_ranks
        from monoscope.features import analyze as describe
        from monoscope.features import analyze_part
        from monoscope.formats import load

        settings = AnalyzeConfig.load(config, overrides or ())
        rank, ranks = rank_and_ranks()
        refuse_existing(out, force=force)
        dictionary = load(settings.dictionary)
        settings = settings.as_trained(dictionary)
        lms = settings.language_models()
        settings.check_models(dictionary, lms)
        first = next(iter(lms.values()))
        sites = dict.fromkeys((*dictionary.reads, *dictionary.writes))
        source = settings.source(lms, settings.windows(first), sites)
        if rank == 0:
            added = partial(memory.of_analysis, lms=lms, source=source, dictionary=dictionary)
            memory.check(settings, added, memory.ANALYZE, as_json=as_json)
        # What a feature promotes is a question to one model: of several, only the tokens' text is taken.
        asked: dict[str, Any] = {"tokenizer": first.tokenizer} if settings.models else {"lm": first}
        with settings.sharing(lms.get(""), sites):
            if rank > 0:
                with silent():
                    analyze_part(dictionary, source, out, rank, ranks, config=settings.analysis)
                return
            bundle = describe(dictionary, source, out, **asked, config=settings.analysis, ranks=ranks, force=force)
        write_text(out / "analyze.toml", settings.to_toml())
        measured = {name: value for name, value in bundle.manifest["stats"].items() if value is not None}
        tokens = bundle.manifest["data"]["n_tokens"]
        show({"bundle": str(out), "features": len(bundle), "tokens": tokens, **measured}, as_json=as_json)
