"""Where a dictionary starts: from a sample of its activations, or from the model's own weights.

    W_dec: directions of norm 1; for a transcoder 0, so that training starts from the mean
    W_enc = c W_dec.T; for a transcoder, directions of norm 1
    b_dec = mean or geometric median of the targets, or 0
    b_enc = 0; for a transcoder -mean(x) @ W_enc, so that all features start with a chance to fire

Directions are random over all of space, or over the active subspace: the span of the first m right singular vectors of
the centered sample, outside of which features of low-rank activations would start dead. Of a transcoder they may also
come from the MLP itself: W_enc random, and row f of W_dec the unit vector along what the MLP answers to feature f,

    MLP(mean(x) + e_f mean||x - mean(x)||) - mean over features

The encoder's scale c is searched: the reconstruction error of one batch at 50 values between 0.1 and 5, then at 20
around the best. With unit decoder rows this is the search over decoder norms r of the literature, with c = r^2.

Sources: Gao et al. 2024 (arXiv:2406.04093), appendix A.1; Wang et al. 2025 (arXiv:2508.16929), active subspace;
llamascopium's norm search and start from the MLP. Geometric median: Weiszfeld 1937.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from monoscope.core.attention import AttentionWeights
from monoscope.core.config import Config
from monoscope.core.errors import ConfigError
from monoscope.dictionaries.normalize import BLOCK

if TYPE_CHECKING:
    from monoscope.dictionaries.autoencoder import Autoencoder
    from monoscope.dictionaries.base import Dictionary

SEARCH_TOKENS = 256  # one scale serves all tokens, so few of them are enough to rank scales


class Initialization(Config):
    """How a dictionary starts."""

    encoder_scale: float | Literal["search"] = Field(default="search", description="c in W_enc = c W_dec.T")
    decoder_bias: Literal["mean", "geometric_median", "zero"] = "mean"
    directions: Literal["random", "active_subspace", "model"] | None = Field(
        default=None,
        description="over all of space, where activations vary, or from the model's own weights; None: as the wiring "
        "is best started",
    )
    subspace: float = Field(default=0.55, gt=0, le=1, description="m / d of the active subspace")


@dataclass(frozen=True, slots=True)
class Origin:
    """The model's own weights between the sites of a dictionary, where they are known.

    mlp: what the model's MLP writes for vectors it may read, ``[n, d]`` to ``[n, d_out]``, in raw units
    attention: weights of the attention whose input is read and whose output is written, in raw units
    """

    mlp: Callable[[Tensor], Tensor] | None = None
    attention: AttentionWeights | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Activations from the beginning of a source, scaled as in training: what a dictionary starts from.

    x: ``[*batch, (site,) d]``; target: ``[*batch, (site,) d_out]``; batch is ``[n]``, or ``[sequence, pos]`` for a
    dictionary that reads sequences
    scale_in: ``[reads]``, scale_out: ``[writes]``, what x and target were multiplied by
    mask: ``[*batch]``, True at the tokens that count; None if all do
    """

    x: Float[Tensor, "*read d"]
    target: Float[Tensor, "*written d_out"]
    scale_in: Float[Tensor, " reads"]
    scale_out: Float[Tensor, " writes"]
    origin: Origin = Origin()
    mask: Bool[Tensor, "*batch"] | None = None

    @staticmethod
    def of(x: Tensor, target: Tensor, n_reads: int = 1, n_writes: int = 1) -> Sample:
        """A sample that was not scaled."""
        return Sample(x, target, torch.ones(n_reads), torch.ones(n_writes))


@torch.no_grad()
def initialize_autoencoder_(
    dictionary: Autoencoder, config: Initialization, sample: Sample, generator: torch.Generator
) -> None:
    """Set every parameter, from scaled activations of one sample."""
    is_sae = dictionary.reads == dictionary.writes
    x = dictionary.normalized(sample.x)[0]
    target = x if is_sae else sample.target
    directions = unit_directions(dictionary.n_features, x, config, generator)
    dictionary.b_dec.copy_(decoder_bias(target, config.decoder_bias))
    dictionary.W_enc.copy_(directions.T)
    if config.directions == "model" and dictionary.config.normalizer != "none":
        raise ConfigError("initialize.directions = 'model' asks the MLP for what it reads: leave the normalizer out")
    if config.directions == "model":
        dictionary.W_dec.copy_(_answers_of_mlp(sample, directions, is_sae))
    elif is_sae:
        dictionary.W_dec.copy_(directions)
    elif dictionary.config.unit_norm:
        rows = torch.randn(dictionary.n_features, dictionary.d_out, generator=generator)
        dictionary.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
    else:
        dictionary.W_dec.zero_()
    mean = x.new_zeros(x.shape[1]) if is_sae else x.mean(0)
    if is_sae or config.directions == "model":
        scale = config.encoder_scale
        centered = dataclasses.replace(sample, x=sample.x[:SEARCH_TOKENS] - mean)
        dictionary.W_enc.mul_(best_encoder_scale(dictionary, centered) if scale == "search" else scale)
    dictionary.b_enc.copy_(-mean @ dictionary.W_enc)
    calibrate(dictionary, sample.x)


def unit_directions(
    n: int, x: Float[Tensor, "n_x d"], config: Initialization, generator: torch.Generator
) -> Float[Tensor, "n d"]:
    """Random directions of norm 1, over all of space or over the subspace where ``x`` varies.

    Raises ConfigError where the sample is too small to span the subspace.
    """
    width = x.shape[-1]
    if config.directions == "active_subspace":
        m = max(1, round(config.subspace * width))
        if len(x) <= m:
            raise ConfigError(f"an active subspace of {m} dimensions needs a sample of more tokens, found {len(x)}")
        basis = torch.linalg.svd((x - x.mean(0)).float(), full_matrices=False).Vh[:m]
        directions = torch.randn(n, m, generator=generator) @ basis
    else:
        directions = torch.randn(n, width, generator=generator)
    return directions / directions.norm(dim=1, keepdim=True)


def _answers_of_mlp(sample: Sample, directions: Tensor, is_sae: bool) -> Float[Tensor, "F d_out"]:
    """Unit vectors along what the MLP writes for each direction, less what it writes on average."""
    if is_sae or sample.origin.mlp is None:
        raise ConfigError(
            "initialize.directions = 'model' starts a transcoder from the MLP between its sites; train from a model, "
            "with reads = ['L.mlp_in'] and writes = ['L.mlp_out'] of one layer"
        )
    raw = sample.x / sample.scale_in
    center = raw.mean(0)
    answers = sample.origin.mlp(center + directions * (raw - center).norm(dim=1).mean())
    answers = answers - answers.mean(0)
    return answers / answers.norm(dim=1, keepdim=True).clamp_min(1e-12)


def best_encoder_scale(dictionary: Dictionary, sample: Sample) -> float:
    """The factor on ``W_enc`` at which a dictionary reconstructs a batch best; its weights stay as they are."""
    x, target = sample.x[:SEARCH_TOKENS], sample.target[:SEARCH_TOKENS]
    mask = None if sample.mask is None else sample.mask[:SEARCH_TOKENS]
    encoder = dictionary.get_parameter("W_enc")
    unit = encoder.clone()

    def error(scale: float) -> float:
        torch.mul(unit, scale, out=encoder)
        calibrate(dictionary, x)
        return dictionary(x, target, mask).squared_error.item()

    mode = dictionary.training
    dictionary.train()
    coarse = min(torch.linspace(0.1, 5.0, 50).tolist(), key=error)
    fine = torch.linspace(max(coarse - 0.1, 0.005), coarse + 0.1, 20).tolist()
    best = min(fine, key=error)
    dictionary.train(mode)
    encoder.copy_(unit)
    dictionary.activation.reset()
    return best


def calibrate(dictionary: Dictionary, x: Tensor) -> None:
    """Set thresholds, where there are any to set, from the scores of the first tokens, or sequences, of a sample."""
    if not dictionary.activation.calibrates:
        return
    norm = dictionary.score_norm()
    pre = dictionary.preacts(x[:SEARCH_TOKENS])
    dictionary.activation.calibrate((pre if norm is None else pre * norm).flatten(0, -2))


def decoder_bias(target: Float[Tensor, "n d_out"], kind: str) -> Float[Tensor, " d_out"]:
    """Where a reconstruction starts, by its name in ``Initialization``."""
    match kind:
        case "zero":
            return torch.zeros(target.shape[1])
        case "mean":
            return target.mean(0)
        case _:
            return geometric_median(target)


def decoder_biases(target: Float[Tensor, "n site d_out"], kind: str) -> Float[Tensor, "site d_out"]:
    """Where the reconstruction of each site starts."""
    return torch.stack([decoder_bias(values, kind) for values in target.unbind(1)])


def geometric_median(points: Float[Tensor, "n d"], *, tolerance: float = 1e-5, most: int = 1000) -> Float[Tensor, " d"]:
    """The point of least total distance to others, by Weiszfeld's iteration.

        w_i = 1 / max(||p_i - m||, eps),    m <- sum_i w_i p_i / sum_i w_i

    Stops when m moves by less than ``tolerance`` of its distance to the points.
    """
    median = points.mean(0)
    for _ in range(most):
        distance = torch.cat([(some - median).norm(dim=1) for some in points.split(BLOCK)])
        weight = 1 / distance.clamp_min(1e-8)
        moved = weight @ points / weight.sum()
        step = (moved - median).norm()
        median = moved
        if step <= tolerance * distance.mean():
            break
    return median
