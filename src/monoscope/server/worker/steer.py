"""Steered generation beside the baseline, one token at a time, and what the edits do on the way.

Three rows grow: the baseline, the steered text under edits, and the steered text as the model without edits reads it,
which gives KL(steered || base) at every place. A baseline that was generated before is not generated again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from monoscope.interventions.spec import Steering
from monoscope.interventions.where import Trace, traced
from monoscope.models.generation import Sampler
from monoscope.server.worker.guard import guard
from monoscope.server.worker.plan import EditSpec, Plan, planned
from monoscope.server.worker.process import Context, Result
from monoscope.server.worker.shelf import Model, Target
from monoscope.server.worker.texts import Text, shown, tokenized

LIKELY = 5
MOST_CELLS = 2**26  # of logits that are compared in one pass; of a longer prompt, the last place alone
KEPT_BASELINES = 32


class Steer(BaseModel):
    """See ``wire.steer.SteerRequest``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    targets: dict[str, Target]
    prompt: Text
    edits: list[EditSpec]
    max_tokens: int
    temperature: float
    top_k: int | None
    seed: int
    guard: bool


Chosen = tuple[int, float]  # a token, and its log probability at temperature 1
_baselines: OrderedDict[tuple[Any, ...], list[Chosen]] = OrderedDict()


def steer(context: Context, body: dict[str, Any]) -> Result:
    """Generate with and without edits, and tell every token."""
    asked, began = Steer.model_validate(body), time.monotonic()
    targets = list(asked.targets.values())
    model = context.shelf.only_model(targets)
    tokens = tokenized(model, asked.prompt, targets[0].bos, room=asked.max_tokens)
    plan = planned(context.shelf, model, asked.targets, asked.edits, len(tokens))
    key = (model, tuple(tokens.tolist()), asked.max_tokens, asked.temperature, asked.top_k, asked.seed)
    known = _baselines.get(key)
    spec = Steering(
        model=model.lm.name,
        tokens=tuple(tokens.tolist()),
        max_new_tokens=asked.max_tokens,
        changes=plan.changes,
        **asked.model_dump(include={"temperature", "top_k", "seed"}),
    )
    start: dict[str, Any] = {"id": asked.id, "tokens": shown(model, tokens.tolist()), "seed": asked.seed}
    start |= {"values": [change.value for change in plan.changes], "spec": spec.to_toml()}
    start |= {"model": targets[0].model, "dictionaries": {t.name: t.loaded() for t in targets}}
    start |= {"baseline_cached": known is not None, "other_model": [t.name for t in targets if model.is_other(t)]}
    context.tell("start", start)
    pair = _Pair(context, model, plan, tokens, asked)
    baseline = iter(known) if known is not None else pair.baseline()
    shown_base, kept = Pieces(model), []
    for _ in pair.steered(began):
        for chosen in _take(baseline, 1):
            kept.append(chosen)
            pair.tell_token("baseline.token", len(kept) - 1, chosen, shown_base)
        context.check()
    for chosen in baseline:  # the steered text ended first
        kept.append(chosen)
        pair.tell_token("baseline.token", len(kept) - 1, chosen, shown_base)
        context.check()
    _keep(key, kept)
    context.tell("guard", guard(context, model, plan, asked.targets, pair.chosen, kept, asked.guard))
    kls = pair.kls or [0.0]
    return {
        "baseline": shown_base.text,
        "steered": pair.pieces.text,
        "seed": asked.seed,
        "stopped": bool(pair.chosen) and pair.chosen[-1][0] in model.lm.stop_tokens,
        "mean_kl": sum(kls) / len(kls),
        "first_token_ms": pair.first_token_ms,
        "ms": round((time.monotonic() - began) * 1000, 1),
    }, {}


class _Pair:
    """One request under way."""

    def __init__(self, context: Context, model: Model, plan: Plan, tokens: Int[Tensor, " pos"], asked: Steer) -> None:
        self.context, self.model, self.plan, self.tokens, self.asked = context, model, plan, tokens, asked
        self.pieces, self.chosen = Pieces(model), list[tuple[int, float, float]]()
        self.kls: list[float] = []
        self.first_token_ms = 0.0

    def _sampler(self) -> Sampler:
        asked = self.asked
        return Sampler.of(asked.temperature, asked.top_k, asked.seed, self.model.lm.device)

    def baseline(self) -> Iterator[Chosen]:
        """Tokens without edits."""
        rows, new = self.model.lm.rows(self.tokens[None])
        sampler = self._sampler()
        for _ in range(self.asked.max_tokens):
            logits = rows.next_logits(new)
            new = sampler.choose(logits)[:, None]
            yield int(new), float(logits[0].float().log_softmax(-1)[new])
            if int(new) in self.model.lm.stop_tokens:
                return

    def steered(self, began: float) -> Iterator[None]:
        """Tokens under edits, told as they are chosen; then what the edits did to their prediction."""
        lm, trace, sampler = self.model.lm, Trace(), self._sampler()
        edits = traced(self.plan.edits, trace)
        rows, new = lm.rows(self.tokens[None])
        shadow, _ = lm.rows(self.tokens[None])
        first = 0
        for n in range(self.asked.max_tokens):
            with lm.edit(*edits):
                logits = rows.logits(new)
            choice = sampler.choose(logits[:, -1])[:, None]
            logprob = float(logits[0, -1].float().log_softmax(-1)[int(choice)])
            if n == 0:
                self.first_token_ms = round((time.monotonic() - began) * 1000, 1)
            self.tell_token("steered.token", n, (int(choice), logprob), self.pieces)
            base = shadow.logits(new)
            self.chosen.append((int(choice), logprob, float(base[0, -1].float().log_softmax(-1)[int(choice)])))
            self._tell_trace(first, logits[0], base[0], trace)
            first, new = first + new.shape[1], choice
            yield
            if int(new) in lm.stop_tokens:
                return

    def tell_token(self, event: str, n: int, chosen: Chosen, pieces: Pieces) -> None:
        """Tell a token."""
        token, logprob = chosen
        text = self.model.vocabulary.text[token]
        self.context.tell(
            event, {"n": n, "id": token, "text": text, "piece": pieces.add(token), "logprob": round(logprob, 5)}
        )

    def _tell_trace(
        self, first: int, steered: Float[Tensor, "pos vocab"], base: Float[Tensor, "pos vocab"], trace: Trace
    ) -> None:
        n = len(steered)
        if steered.numel() > MOST_CELLS:
            steered, base = steered[-1:], base[-1:]
        p, q = steered.float().log_softmax(-1), base.float().log_softmax(-1)
        kl = (p.exp() * (p - q)).sum(-1).clamp_min(0).tolist()
        changed = (p.argmax(-1) != q.argmax(-1)).tolist()
        best = p[-1].topk(min(LIKELY, p.shape[-1])).indices
        likely = [
            {"id": i, "text": self.model.vocabulary.text[i], "steered": a, "base": b}
            for i, a, b in zip(best.tolist(), p[-1, best].exp().tolist(), q[-1, best].exp().tolist(), strict=True)
        ]
        self.kls.append(kl[-1])
        offset = n - len(kl)
        changes: dict[str, list[float]] = {}
        for change in trace.taken():  # several edits of one site add up, at most
            before = changes.get(change.site, [0.0] * n)
            changes[change.site] = [a + b for a, b in zip(before, change.relative, strict=True)]
        places = [
            {
                "position": first + offset + i,
                "kl": kl[i],
                "changed": changed[i],
                "likely": likely if i == len(kl) - 1 else [],
                "relative": {site: values[offset + i] for site, values in changes.items()},
            }
            for i in range(len(kl))
        ]
        self.context.tell("trace", {"places": places})


class Pieces:
    """A text that grows by tokens; what of it is a whole character already is shown."""

    def __init__(self, model: Model) -> None:
        self._tokenizer: Any = model.lm.tokenizer
        self._ids: list[int] = []
        self.text = ""

    def add(self, token: int) -> str:
        """What a token adds. Half a character is held back until its other half comes."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") or not text.startswith(self.text):
            return ""
        piece, self.text = text[len(self.text) :], text
        return piece


def _take(items: Iterator[Chosen], n: int) -> Iterator[Chosen]:
    for _ in range(n):
        for item in items:
            yield item
            break


def _keep(key: tuple[Any, ...], chosen: list[Chosen]) -> None:
    _baselines[key] = chosen
    while len(_baselines) > KEPT_BASELINES:
        _baselines.popitem(last=False)
