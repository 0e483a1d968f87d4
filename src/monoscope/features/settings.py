"""Settings of an analysis."""

from __future__ import annotations

from pydantic import Field

from monoscope.core.config import Config


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
