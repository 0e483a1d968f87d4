"""What the steering route takes, and the events it streams.

start, then steered.token, trace and baseline.token again and again, guard, done; or error, a problem document
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from monoscope.server.wire.activate import Loaded, Prompt, TokenOut
from monoscope.server.wire.base import Dict, FeatureIndex, Problem, Slug, Wire

Places = Literal["all"] | Annotated[list[int], Field(max_length=1000)]


class WhereIn(Wire):
    """Which tokens are edited. ``generation: [0]`` is the first generated token's own place."""

    prompt: Places = Field(default="all", description="places in the prompt, counted from 0, or negative from its end")
    generation: Places = Field(default="all", description="places among the generated tokens, counted from 0")


class EditIn(Wire):
    """One change of one feature.

    add       x + strength * direction. unit norm: strength * R * u, with R the root mean square norm at the site over
              the bundle's text and u the unit direction; local: strength * |x_t| * u at each token; maxact: as much as
              strength times the feature's reference activation writes; raw: strength times the decoder row
    clamp     the activation becomes strength times the reference activation (maxact), or strength itself (raw)
    floor     at least that much      cap  at most that much
    scale     strength times what it was      ablate  0, whatever strength says

    The reference activation is the 99.9th percentile of the feature's activations in the bundle, where it fires.
    """

    dictionary: Dict
    feature: FeatureIndex
    op: Literal["add", "clamp", "floor", "cap", "scale", "ablate"] = "add"
    strength: float = Field(default=0.0, ge=-1e6, le=1e6, allow_inf_nan=False)
    unit: Literal["norm", "local", "maxact", "raw"] | None = Field(
        default=None, description="null: norm for add, maxact for clamp, floor and cap"
    )
    where: WhereIn = WhereIn()

    @model_validator(mode="after")
    def _unit_fits(self) -> Self:
        if self.op in ("clamp", "floor", "cap") and self.unit in ("norm", "local"):
            raise ValueError(f"{self.op} sets an activation: its unit is maxact or raw, found {self.unit}")
        if self.op in ("scale", "ablate") and self.unit is not None:
            raise ValueError(f"{self.op} has no unit: strength is a factor, found unit {self.unit}")
        return self


class SteerRequest(Prompt):
    """A continuation with and without edits, side by side."""

    edits: list[EditIn] = Field(min_length=1, max_length=16)
    max_tokens: int = Field(default=64, ge=1, le=512)
    temperature: float = Field(default=0.0, ge=0, le=2, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=1, le=1000)
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="null: one is drawn, and reported")
    guard: bool = Field(default=True, description="measure what the edits do to ordinary text of the bundle")


class SteerStart(Wire):
    """Event ``start``: the prompt, and what the edits come to.

    values: for each edit, the activation, length, share or factor that its strength stands for
    spec: all of it as a TOML file that ``monoscope.interventions.Steering`` loads
    model: its directory; dictionaries: by name, how ``monoscope.formats.load`` reads each
    """

    id: str
    tokens: list[TokenOut]
    seed: int
    values: list[float]
    spec: str
    model: str
    dictionaries: dict[str, Loaded]
    baseline_cached: bool
    other_model: list[Slug]


class SteerToken(Wire):
    """Events ``baseline.token`` and ``steered.token``. ``piece`` is what the token adds to the text shown so far."""

    n: int = Field(description="counted from 0")
    id: int
    text: str
    piece: str
    logprob: float = Field(description="nats, under the model that chose it, at temperature 1")


class Likely(Wire):
    """A next token, and how likely it is with and without edits."""

    id: int
    text: str
    steered: float
    base: float


class PlaceTrace(Wire):
    """What the edits do at one place of the steered text, where the model predicts the token behind it.

    kl: KL(steered || base) of that prediction, in nats, both on the steered text
    relative: for each edited site, |x' - x| / |x|
    """

    position: int
    kl: float
    changed: bool = Field(description="whether the likeliest next token is another one")
    likely: list[Likely] = Field(description="the likeliest next tokens under edits; of the last place of a pass")
    relative: dict[str, float]


class SteerTrace(Wire):
    """Event ``trace``: the places of one pass; the first pass holds the prompt."""

    places: list[PlaceTrace]


class Guard(Wire):
    """Event ``guard``: what the edits cost, everywhere applied.

    perplexity_ratio: exp(CE under edits - CE) on text of the bundle; limit: above it the edit is not coherent
    repeated: share of 4-grams of the continuation seen before in it; logprob_drop: nats a token by which the steered
    text is less likely than the baseline's own, both under the model without edits
    """

    perplexity_ratio: float | None
    limit: float
    n_tokens: int
    repeated: float
    baseline_repeated: float
    logprob_drop: float
    ok: bool
    reasons: list[str]


class SteerDone(Wire):
    """Event ``done``."""

    baseline: str
    steered: str
    seed: int
    stopped: bool = Field(description="whether the steered text ended by itself")
    mean_kl: float
    first_token_ms: float
    ms: float


SteerEvent = SteerStart | SteerToken | SteerTrace | Guard | SteerDone | Problem
"""Data of the events of a generation."""
