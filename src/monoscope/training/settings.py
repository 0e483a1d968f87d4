"""Training: how a recipe is trained, as configuration."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from monoscope.core.config import Config
from monoscope.core.schedule import Schedule, Span, Trapezoid, span_steps
from monoscope.training.optim import Adam, Optimizer

MOST_DEAD_AFTER = 10_000_000


class Parallel(Config):
    """How the processes that ``torchrun`` starts train together: on a mesh of data x features."""

    features: int = Field(default=1, ge=1, description="processes that share a dictionary's features between them")
    lanes: int | None = Field(
        default=None,
        ge=1,
        description="parts in which activations are read side by side; None: one for each share of the data",
    )


class Training(Config):
    """How long, on what batches, by which optimizer, and how often to write things down."""

    tokens: int = Field(default=10_000_000, ge=1, description="tokens to train on, repeats counted")
    batch_tokens: int = Field(default=4096, ge=2)
    shuffle_tokens: int = Field(default=2**18, ge=1, description="tokens held to shuffle sequences")
    seed: int = Field(default=0, ge=0)
    device: str = Field(
        default="auto",
        description="'cpu', 'cuda', 'cuda:1', ...; 'auto': a GPU where there is one, each process its own",
    )
    optimizer: Optimizer = Adam()
    schedules: dict[str, Schedule] = Field(default_factory=lambda: {"optimizer.lr": Trapezoid()})
    clip: float = Field(default=1.0, ge=0, description="largest global norm of the gradient; 0: any")
    dead_after: Span | None = Field(
        default=None,
        description="silence after which a feature is dead; None: a fiftieth of the run, at most 10M tokens",
    )
    encode_dtype: Literal["auto", "fp32", "bf16", "int8"] = Field(
        default="auto",
        description="precision that selects features; their values are exact in any. auto: the fastest of the machine",
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        default="stop", description="NaN or infinity in activations or a loss: stop, or leave the step out and count it"
    )
    log_every: int = Field(default=10, ge=1, description="steps between rows of the log")
    checkpoint_every: float = Field(default=300.0, ge=0, description="seconds between checkpoints")
    snapshots: tuple[Span, ...] = Field(
        default=(),
        description="after so many tokens, or such shares of the run, the dictionary is saved as it is then",
    )

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        for name in self.schedules:
            parts = name.split(".")
            is_term = len(parts) == 3 and parts[0] == "terms" and parts[2] == "weight"
            if name not in ("optimizer.lr", "function.k") and not is_term:
                raise ValueError(f"cannot schedule {name!r}; known: optimizer.lr, function.k, terms.NAME.weight")
        if late := [span for span in self.snapshots if isinstance(span, int) and span > self.tokens]:
            raise ValueError(f"snapshots after {late[0]:,} tokens of a run that ends after {self.tokens:,}")
        return self

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return -(-self.tokens // self.batch_tokens)

    @property
    def snapshot_steps(self) -> frozenset[int]:
        """Steps after which the dictionary is saved; 0 is none."""
        return frozenset(span_steps(span, self.tokens, self.batch_tokens) for span in self.snapshots) - {0}

    @property
    def lr(self) -> float:
        """The learning rate that schedules multiply."""
        return self.optimizer.rate(self.tokens)

    @property
    def dead_after_tokens(self) -> int:
        """``dead_after`` in tokens."""
        if self.dead_after is None:
            return min(MOST_DEAD_AFTER, self.tokens // 50)
        return self.dead_after if isinstance(self.dead_after, int) else round(self.dead_after * self.tokens)
