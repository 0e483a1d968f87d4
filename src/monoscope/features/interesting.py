"""Which features are best worth a look: alive, selective, and firing in contexts that agree about something.

A feature is a candidate if it fires in at least 12 sequences, on at most 5 % of tokens, strongest mostly elsewhere than
on the first position that counts, and if its strongest contexts come from several documents rather than from one
repeated passage.

Agreement. Each view asks one thing of a context: the token where the feature is strongest, the token before it, the
token after it, the word that opens its line, or whether its last two tokens repeat a pair seen earlier in the
sequence. With A the chance that two contexts of the feature (the strongest, and samples of all bands but the weakest)
answer alike, and A0 the same for contexts of any two features,

    agreement = (A - A0) / (1 - A0)

The two ends of a signed feature are asked apart, and the one that agrees more speaks for the feature.

consistency = the largest agreement, plus half of what the second adds: the two views then say more than one.

    score = consistency^2 * (1 + steady) * (1 + peaked) * (1 + contrast) / 8 * distinct * legible / (1 + density / 0.02)

steady    share of its weaker contexts (random ones, and the lower half of the bands) that give the commonest answer
peaked    rank among all features, from 0 to 1, of the kurtosis of its logit effects: it promotes a few tokens
contrast  1 - mean / max of its activations where it fires: the strongest contexts stand out; of a signed feature, the
          magnitude of both, and the root mean square if it fires in both directions
distinct  share of its strongest contexts that are no twins
legible   1 if its most frequent token has two letters or digits, 0.7 if it is white space, else 0.85

Features are then taken one by one, the best first. For each one taken, the others' scores are multiplied by 1 - s,
where s is the larger of the decoders' cosine squared and 0.7 if the top token, or what the contexts agree about most,
is the same; and by 0.97 if they agree most in the same view. So the first twenty differ in direction, in token, and
in kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float64, Int64

from monoscope.features.bundle import FeatureBundle
from monoscope.features.views import NOTHING, VIEWS, views

MIN_SEQUENCES, MAX_DENSITY, MAX_FIRST = 12, 0.05, 0.5
MIN_CONTEXTS, MIN_DOCUMENTS = 8, 3
STATED = {"on": 0.5, "after": 0.5, "before": 0.5, "line": 0.5, "repeats": 0.8}  # share of contexts worth stating
MIN_AGREEMENT = 0.1
SAME, SAME_KIND = 0.7, 0.97
POOL = 8  # candidates compared for each feature wanted


@dataclass(frozen=True, slots=True)
class Finding:
    """What most contexts of a feature have in common: one view, the answer they give, and how many give it.

    view: "on", "after", "before" or "line" with the token as ``text``; "repeats" with no text
    """

    view: str
    text: str
    share: float


@dataclass(frozen=True, slots=True)
class Interest:
    """Why a feature is worth a look: its score, and what its contexts agree about, the most telling first.

    is_negative: whether they are the contexts in which it is negative
    """

    feature: int
    score: float
    findings: tuple[Finding, ...]
    is_negative: bool = False


@dataclass(frozen=True, slots=True)
class _Contexts:
    """Firing contexts of all features: what each view says of them, as codes.

    strong: the strongest, and all bands but the weakest; weak: random ones, and the lower half of the bands
    lowest: the most negative activation of each feature, 0 for one that is never negative
    """

    feature: Int64[np.ndarray, " n"]
    is_negative: Bool[np.ndarray, " n"]
    strong: Bool[np.ndarray, " n"]
    weak: Bool[np.ndarray, " n"]
    codes: dict[str, Int64[np.ndarray, " n"]]
    distinct: Float64[np.ndarray, " F"]
    documents: Int64[np.ndarray, " F"]
    at_first: Float64[np.ndarray, " F"]
    lowest: Float64[np.ndarray, " F"]


@dataclass(frozen=True, slots=True)
class _Answers:
    """What the contexts of each feature say to each view: how far they agree, the commonest answer, and its share.

    is_negative: which end of the feature they are of
    """

    agreement: Float64[np.ndarray, "views F"]
    commonest: Int64[np.ndarray, "views F"]
    share: Float64[np.ndarray, "views F"]
    is_negative: Bool[np.ndarray, " F"]


def interesting(bundle: FeatureBundle, n: int = 60) -> list[Interest]:
    """The ``n`` features best worth a look, in the order to look at them; fewer if there are fewer candidates."""
    names, answers, score = _examined(bundle)
    candidates = np.argsort(-score, kind="stable")[: n * POOL]
    candidates = candidates[score[candidates] > 0]
    chosen = _diverse(bundle, candidates, score, answers, n)
    return [_interest(f, names, answers, score) for f in chosen]


def interest_of(bundle: FeatureBundle, features: Sequence[int]) -> list[Interest]:
    """What the contexts of chosen features agree about, whether they are worth a look or not."""
    examined = _examined(bundle)
    return [_interest(feature, *examined) for feature in features]


def _examined(bundle: FeatureBundle) -> tuple[list[str], _Answers, Float64[np.ndarray, " F"]]:
    names, classes = _classes(bundle)
    contexts = _read(bundle, classes)
    answers = _ask(contexts, len(bundle))
    return names, answers, _scores(bundle, contexts, answers)


def _interest(feature: int, names: list[str], answers: _Answers, score: Float64[np.ndarray, " F"]) -> Interest:
    findings, is_negative = _findings(answers, feature, names), bool(answers.is_negative[feature])
    return Interest(feature, float(score[feature]), findings, is_negative)


def _ask(contexts: _Contexts, n_features: int) -> _Answers:
    strong, end = contexts.strong, 2 * contexts.feature + contexts.is_negative
    each = [_answer(end[strong], contexts.codes[view][strong], 2 * n_features) for view in VIEWS]
    of_ends = [np.stack(part).reshape(len(VIEWS), n_features, 2) for part in zip(*each, strict=True)]
    is_negative = of_ends[0].max(0).argmax(-1)
    agreement, commonest, share = (part[:, np.arange(n_features), is_negative] for part in of_ends)
    return _Answers(agreement, commonest, share, is_negative.astype(bool))


def _classes(bundle: FeatureBundle) -> tuple[list[str], Int64[np.ndarray, " vocab"]]:
    """Tokens that differ only in case and in the space around them count as one: names, and the class of each token."""
    shown: dict[str, int] = {}
    names, codes = [], np.zeros(len(bundle.vocabulary), np.int64)
    for i, text in enumerate(bundle.vocabulary):
        name = text.strip().lower() or ("\n" if "\n" in text else " ")
        if name not in shown:
            shown[name] = len(names)
            names.append(name)
        codes[i] = shown[name]
    return names, codes


def _read(bundle: FeatureBundle, classes: Int64[np.ndarray, " vocab"]) -> _Contexts:
    columns = ["feature", "interval", "max_pos", "seq", "dup_of"]
    groups = [group.select([*columns, "max_act"]) for group in bundle.context_groups()]
    table = pa.concat_tables(groups)
    peak = table.column("max_act").to_numpy().astype(np.float64)
    feature, interval, position, sequence, dup_of = (table.column(name).to_numpy().astype(np.int64) for name in columns)
    n = len(bundle)
    top = interval == 0
    lowest = np.zeros(n)
    np.minimum.at(lowest, feature[top], peak[top])
    n_top = np.maximum(np.bincount(feature[top], minlength=n), 1)
    distinct = np.bincount(feature[top & (dup_of < 0)], minlength=n) / n_top
    document = bundle.documents.astype(np.int64)[sequence]
    pairs = np.unique(feature[top] << 32 | document[top])
    documents = np.bincount(pairs >> 32, minlength=n)
    first = position <= (bundle.manifest["data"]["skip_first"] or 0)
    at_first = np.bincount(feature[top], weights=first[top], minlength=n) / n_top
    n_bands = int(bundle.manifest["intervals"]["n"])
    use = (interval >= -1) & (dup_of < 0)
    feature, interval, position, sequence, peak = (x[use] for x in (feature, interval, position, sequence, peak))
    strong = (interval >= 0) & (interval < max(n_bands, 2))
    weak = (interval == -1) | (interval > n_bands / 2)
    codes = views(bundle.tokens(), classes, bundle.vocabulary, sequence, position)
    return _Contexts(feature, peak < 0, strong, weak, codes, distinct, documents, at_first, lowest)


def _answer(
    feature: Int64[np.ndarray, " n"], code: Int64[np.ndarray, " n"], n_features: int
) -> tuple[Float64[np.ndarray, " F"], Int64[np.ndarray, " F"], Float64[np.ndarray, " F"]]:
    """Agreement of each feature's contexts in one view, 0 for fewer than 8 of them; the commonest answer; its share."""
    n = np.maximum(np.bincount(feature, minlength=n_features), 1).astype(np.float64)
    key = np.sort((feature << 32 | code)[code != NOTHING])  # an answer that is not there agrees with nothing
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    count = np.diff(np.append(starts, len(key)))
    owner, answer = key[starts] >> 32, key[starts] & (2**32 - 1)
    alike = np.bincount(owner, weights=count * (count - 1.0), minlength=n_features) / np.maximum(n * (n - 1), 1)
    by_chance = float(((np.bincount(code[code != NOTHING]) / max(len(code), 1)) ** 2).sum())
    agreement = np.where(n >= MIN_CONTEXTS, (alike - by_chance) / max(1 - by_chance, 1e-9), 0.0)
    commonest, share = np.full(n_features, NOTHING), np.zeros(n_features)
    rising = np.argsort(count, kind="stable")  # of several writes to one place the last one stays
    commonest[owner[rising]], share[owner[rising]] = answer[rising], count[rising] / n[owner[rising]]
    return agreement, commonest, share


def _scores(bundle: FeatureBundle, contexts: _Contexts, answers: _Answers) -> Float64[np.ndarray, " F"]:
    """Score of every feature; 0 for those that are no candidates."""
    columns = (bundle.column(name).astype(np.float64) for name in ("density", "max_act", "mean_act", "std_act"))
    density, maximum, mean, std = columns
    candidate = (bundle.column("n_sequences") >= MIN_SEQUENCES) & (density <= MAX_DENSITY)
    candidate &= (contexts.at_first < MAX_FIRST) & (contexts.documents >= MIN_DOCUMENTS)
    second, first = np.sort(answers.agreement, axis=0)[-2:]
    consistency = np.maximum(first + 0.5 * np.maximum(second, 0) * (1 - first), 0)
    kurtosis = np.nan_to_num(bundle.column("logit_kurtosis"), nan=0.0)
    peaked = np.argsort(np.argsort(kurtosis, kind="stable"), kind="stable") / max(len(bundle) - 1, 1)
    typical = np.where((contexts.lowest < 0) & (maximum > 0), np.hypot(mean, std), np.abs(mean))
    contrast = np.clip(1 - typical / np.maximum(np.maximum(maximum, -contexts.lowest), 1e-12), 0, 1)
    contrast = np.nan_to_num(contrast, nan=0.0)  # where the mean is not known, as in bundles of other tools' files
    steady = _steady(contexts, answers)
    score = consistency**2 * (1 + steady) * (1 + peaked) * (1 + contrast) / 8 * contexts.distinct / (1 + density / 0.02)
    legible = np.array([_legible(bundle.vocabulary[token]) for token in bundle.column("top_token")])
    return np.where(candidate, score * legible, 0)


def _steady(contexts: _Contexts, answers: _Answers) -> Float64[np.ndarray, " F"]:
    view = answers.agreement.argmax(0)
    commonest = answers.commonest[view, np.arange(len(view))]
    weak = contexts.weak & (contexts.is_negative == answers.is_negative[contexts.feature])
    feature = contexts.feature[weak]
    said = np.stack([contexts.codes[name] for name in VIEWS])[view[contexts.feature], np.arange(len(contexts.feature))]
    same = said[weak] == commonest[feature]
    n = np.bincount(feature, minlength=len(view))
    return np.bincount(feature, weights=same, minlength=len(view)) / np.maximum(n, 1)


def _legible(text: str) -> float:
    return 1.0 if sum(map(str.isalnum, text)) > 1 else 0.85 if text.strip() else 0.7


def _diverse(
    bundle: FeatureBundle,
    candidates: Int64[np.ndarray, " c"],
    score: Float64[np.ndarray, " F"],
    answers: _Answers,
    n: int,
) -> list[int]:
    decoder = bundle.decoder()
    if decoder is None:
        unit = torch.zeros(len(candidates), 1)
    else:
        unit = torch.nn.functional.normalize(decoder[torch.from_numpy(candidates)].float(), dim=1)
    view = answers.agreement[:, candidates].argmax(0)
    answer = answers.commonest[view, candidates]
    top = bundle.column("top_token")[candidates]
    left, chosen = score[candidates].copy(), []
    for _ in range(min(n, len(candidates))):
        best = int(left.argmax())
        chosen.append(int(candidates[best]))
        cosine = np.clip((unit @ unit[best]).numpy(), 0, 1)
        alike = (top == top[best]) | ((view == view[best]) & (answer == answer[best]))
        left *= 1 - np.maximum(cosine**2, SAME * alike)
        left *= np.where(view == view[best], SAME_KIND, 1)
        left[best] = -1
    return chosen


def _findings(answers: _Answers, feature: int, names: list[str]) -> tuple[Finding, ...]:
    found = []
    for which in np.argsort(-answers.agreement[:, feature], kind="stable"):
        share = float(answers.share[which, feature])
        if share >= STATED[VIEWS[which]] and answers.agreement[which, feature] > MIN_AGREEMENT:
            text = "" if VIEWS[which] == "repeats" else names[answers.commonest[which, feature]]
            found.append(Finding(VIEWS[which], text, share))
    return tuple(found)
