"""Where a query is looked for, and what each place's matches are worth beside the others'."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from monoscope.core.errors import ConfigError
from monoscope.features.search.directions import alike
from monoscope.features.search.query import Asked
from monoscope.features.search.records import Match, cut
from monoscope.features.search.searched import Index, Searched
from monoscope.features.search.sheet import smart_case
from monoscope.features.search.words import phrase_query, words_query

WEIGHT = {"label": 1.0, "explanation": 0.9, "token": 0.8, "meaning": 0.75, "logit": 0.5, "context": 0.45}
UNLIKE, MEANT = 0.05, 0.3  # cosine below which two sentences have little to do with each other


def find(index: Index, asked: Asked, chosen: list[Searched], limit: int, notes: list[str]) -> dict[str, list[Match]]:
    """Matches of a query by dictionary, scores from 0 to 1."""
    if not asked.text.strip() and asked.mode != "token":
        return {one.name: [] for one in chosen}
    if asked.mode == "like":
        return _like(asked.text, chosen, limit)
    found = _lines(index, asked, chosen, limit)
    meant = asked.mode in ("auto", "semantic") and index.meaning is not None
    cosines = None
    if meant and index.meaning is not None:
        for one in chosen:
            one.rows()  # which may embed a few, and they must be among the vectors that are read next
        cosines = index.meaning.cosines(asked.text)
    for one in chosen:
        found.setdefault(one.name, []).extend(_of_one(index, one, asked, limit, notes))
        if cosines is not None:
            found[one.name] += _meant(one, cosines, limit, notes, alone=asked.mode == "semantic")
    return found


def _lines(index: Index, asked: Asked, chosen: list[Searched], limit: int) -> dict[str, list[Match]]:
    """Labels and explanations that hold the words, or failing that the letters, of a query."""
    words = {
        "auto": words_query(asked.text, prefix=True),
        "prefix": words_query(asked.text, prefix=True),
        "exact": phrase_query(asked.text),
    }
    if asked.mode not in words:
        return {}
    found: dict[str, list[Match]] = {}
    if (expression := words[asked.mode]) is not None:
        by_print = index.lines.search(dict.fromkeys(one.fingerprint for one in chosen), expression, limit)
        top = max((match.score for matches in by_print.values() for match in matches), default=0.0) or 1.0
        for one in chosen:
            # BM25 says how well lines do beside each other, not how well they do: the best gets 1, none less than 0.6.
            ranked = [replace(m, score=WEIGHT[m.why] * (0.6 + 0.4 * m.score / top)) for m in by_print[one.fingerprint]]
            found[one.name] = ranked
    if asked.mode != "prefix":
        for one in chosen:
            if len(found.get(one.name, [])) < limit:
                letters = one.sheet().find(asked.text.strip(), limit)
                found.setdefault(one.name, []).extend(replace(m, score=0.9 * WEIGHT[m.why] * m.score) for m in letters)
    return found


def _of_one(index: Index, one: Searched, asked: Asked, limit: int, notes: list[str]) -> list[Match]:
    """What is found in one dictionary besides words of its lines."""
    found: list[Match] = []
    text, mode = asked.text, asked.mode
    if mode == "auto":
        found += _named(one, text)
    if mode == "regex":
        found += one.sheet().regex(smart_case(text), index.database, limit)
    if one.tokens is None:
        return found
    if mode == "regex":
        tokens = one.tokens.matching(smart_case(text), index.database)
    elif mode in ("auto", "token", "logit", "prefix"):
        quoted = len(text) > 2 and text[0] == text[-1] == '"'
        tokens = one.tokens.named(text[1:-1] if quoted else text, exact=quoted, prefix=mode == "prefix")
        if mode == "auto":
            tokens = {token: strength for token, strength in tokens.items() if strength > 0.6}
    else:
        tokens = {}
    if mode in ("auto", "token", "prefix", "regex"):
        found += _weighed(one.tokens.fires(tokens, limit), 1.0 if mode == "token" else WEIGHT["token"])
    if mode in ("auto", "logit"):
        found += _weighed(one.tokens.logits(tokens, limit), 1.0 if mode == "logit" else WEIGHT["logit"])
    if mode in ("auto", "exact", "token"):
        found += _contexts(one, text, limit, notes, whole=mode != "auto")
    return found


def _weighed(matches: list[Match], weight: float) -> list[Match]:
    return [replace(match, score=weight * match.score) for match in matches]


def _contexts(one: Searched, text: str, limit: int, notes: list[str], *, whole: bool) -> list[Match]:
    if one.corpus is None:
        notes.append(f"the contexts of {one.name} are too many to be searched")
        return []
    if len(text.strip()) < 2 and not whole:
        return []
    matches, cut_short = one.corpus.find(text.strip().strip('"'), limit, whole=whole)
    if cut_short:
        notes.append(f"{text.strip()!r} stands in so many contexts that only the first were read")
    return _weighed(matches, WEIGHT["context"])


def _meant(one: Searched, cosines: np.ndarray, limit: int, notes: list[str], *, alone: bool) -> list[Match]:
    """Lines by meaning. ``cosines``: of every vector there is; the last is for lines without one."""
    sheet, rows = one.rows()
    if missing := int((rows < 0).sum()):
        notes.append(f"{missing:,} labels of {one.name} are not embedded yet")
    cosine = cosines[np.where(rows < len(cosines) - 1, rows, -1)]
    found = []
    for line in _top(cosine, limit).tolist():
        if cosine[line] > (UNLIKE if alone else MEANT):
            feature, _, words = sheet.lines[line]
            score = min(float(cosine[line]), 1.0) * (1.0 if alone else WEIGHT["meaning"])
            found.append(Match(feature, "meaning", score, cut(words, ())[0]))
    return found


def _top(values: np.ndarray, limit: int) -> np.ndarray:
    best = np.argpartition(-values, limit)[:limit] if len(values) > limit else np.arange(len(values))
    return best[np.argsort(-values[best], kind="stable")]


def _named(one: Searched, text: str) -> list[Match]:
    """The feature that a query names by its number."""
    found = re.fullmatch(r"(?:(.+)/)?#?(\d{1,9})", text.strip(), re.ASCII)
    if found is None or found[1] not in (None, one.name) or int(found[2]) >= len(one.bundle):
        return []
    return [Match(int(found[2]), "index", 1.0, text.strip(), ((0, len(text.strip())),))]


def _like(text: str, chosen: list[Searched], limit: int) -> dict[str, list[Match]]:
    named = re.fullmatch(r"(?:(.+)/)?#?(\d{1,9})", text.strip(), re.ASCII)
    if named is None:
        raise ConfigError(f"'like' takes a feature, as in 1043 or NAME/1043; found {text.strip()!r}")
    source = next((one for one in chosen if named[1] in (None, one.name)), None)
    feature = int(named[2])
    if source is None or feature >= len(source.bundle):
        where = f"in {source.name}" if source else f"among {', '.join(one.name for one in chosen) or 'no dictionaries'}"
        raise ConfigError(f"there is no feature {text.strip()} {where}")
    if source.directions is None:
        raise ConfigError(f"{source.name} carries no directions")
    wanted = source.directions[feature].astype(np.float32)
    return {
        one.name: alike(one.directions, one.arrays["norm"], wanted, limit, but=feature if one is source else None)
        for one in chosen
        if one.arrays is not None and one.directions is not None
    }
