"""What routes of one's own text take and give: the features that fire, one feature alone, two texts compared.

A text is either ``text`` or ``messages``, which go through the model's chat template. Special tokens written out in a
text are text. Token 0 is usually unlike all others; ``hide_first`` leaves out of every ranking the first positions the
dictionary was trained without.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from monoscope.server.wire.base import Dict, FeatureIndex, Slug, Wire

MOST_CHARACTERS = 200_000
Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]


class Message(Wire):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


class Prompt(Wire):
    """A text, or a conversation that goes through the model's chat template."""

    text: Text | None = None
    messages: list[Message] | None = Field(default=None, min_length=1, max_length=200)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give either text or messages")
        return self


class Loaded(Wire):
    """Arguments of ``monoscope.formats.load``: another library's layout, and rules that its files leave open."""

    path: str
    layout: str | None
    choices: dict[str, str]


class ActivateRequest(Prompt):
    """Which features of some dictionaries fire on a text."""

    dicts: list[Slug] = Field(min_length=1, max_length=64)
    top: int = Field(default=10, ge=1, le=100, description="features per token, and for the text as a whole")
    hide_first: bool = Field(default=True, description="leave the positions out that dictionaries are trained without")
    max_density: float | None = Field(
        default=None, gt=0, le=1, allow_inf_nan=False, description="leave out features that fire more often"
    )


class TokenOut(Wire):
    """One token of a text. Tokens that are part of a character show their bytes, as in ``\\xe2\\x86``."""

    id: int
    text: str
    special: bool = False


class Hit(Wire):
    """A feature that fires on a token.

    relative: the value as a share of the feature's largest activation in the corpus
    """

    dictionary: Dict
    feature: FeatureIndex
    value: float
    relative: float | None = None
    density: float | None = None
    label: str | None = None


class WholeHit(Hit):
    """A feature that fires in a text; ``value`` is its largest activation, at ``position``."""

    position: int
    mean: float = Field(description="over the tokens where it fires")
    n_tokens: int = Field(description="tokens where it fires")


class HeatRow(Wire):
    """A dictionary along the text, one number a token.

    value: largest activation of those that may be ranked; relative: largest share of a feature's own maximum in the
    corpus, null without a bundle; l0: features that fire; error: |target - recon|^2 / |target|^2
    """

    dictionary: Dict
    name: str
    layer: int | None
    value: list[float]
    relative: list[float] | None
    l0: list[int]
    error: list[float]


class ActivateResponse(Wire):
    """Per token the features with the largest activations, by value; the same for the text as a whole.

    model: its directory; dictionaries: by name, how ``monoscope.formats.load`` reads each
    """

    tokens: list[TokenOut]
    hidden: int = Field(description="tokens at the start that are left out of rankings")
    per_token: list[list[Hit]]
    whole: list[WholeHit]
    heat: list[HeatRow]
    other_model: list[Slug] = Field(description="dictionaries that were trained on a model with other weights")
    model: str
    dictionaries: dict[str, Loaded]
    ms: float


class FeatureRequest(Prompt):
    """One feature on one's own text."""

    dictionary: Dict
    feature: FeatureIndex


class FeatureResponse(Wire):
    """Activations of one feature, one a token."""

    dictionary: Dict
    feature: FeatureIndex
    tokens: list[TokenOut]
    acts: list[float]
    hidden: int
    max_act: float | None = Field(description="the feature's largest activation in the corpus")
    ms: float


class DiffRequest(Wire):
    """Two texts, compared token by token."""

    dictionary: Dict
    a: Text
    b: Text
    top: int = Field(default=10, ge=1, le=100)
    hide_first: bool = True
    max_density: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)


class DiffHit(Wire):
    """A feature in two places; ``b - a`` is what it is sorted by, in size."""

    feature: FeatureIndex
    a: float
    b: float
    label: str | None = None


class Aligned(Wire):
    """A token of the first text beside one of the second; None where one has no counterpart."""

    a: int | None
    b: int | None
    same: bool
    features: list[DiffHit]


class DiffResponse(Wire):
    """Two texts aligned by token. ``whole`` compares largest activations over the texts.

    model, dictionaries: as in ``ActivateResponse``
    """

    dictionary: Dict
    tokens_a: list[TokenOut]
    tokens_b: list[TokenOut]
    hidden: int = Field(description="tokens at the start that are left out of rankings")
    aligned: list[Aligned]
    whole: list[DiffHit]
    model: str
    dictionaries: dict[str, Loaded]
    ms: float
