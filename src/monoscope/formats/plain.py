"""An autoencoder as most layouts know it: no scaled scores, a function of inference, thresholds in units of pre.

    scaled scores, jumprelu           threshold / n, n = ||W_dec[f]||: nothing else changes
    scaled scores, topk and the like  W_enc, b_enc *= n, W_dec /= n: activations become n times what they were
    centering taken out               b_enc - b_dec @ W_enc            put in: b_enc + b_dec @ W_enc

Writers begin here. What they do is said in ``steps``, what a layout has no place for in ``lost``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from monoscope.core.errors import CannotHold
from monoscope.core.site import Site
from monoscope.dictionaries import Autoencoder, Dictionary
from monoscope.dictionaries.normalizer import EPS
from monoscope.dictionaries.variants.batch_topk import BatchTopK
from monoscope.dictionaries.variants.gated import Gated

ONLY_NATIVE = {
    "crosscoder": "a crosscoder reads and writes several sites at once",
    "cross_layer": "a cross-layer transcoder writes many sites from one",
    "molt": "what a feature of a MOLT writes depends on what it reads",
    "lorsa": "the features of Lorsa attend to other tokens",
    "itda": "an ITDA pursues a token step by step, with either sign",
    "matching_pursuit": "a pursuit chooses step by step, and has no encoder",
}


@dataclass
class Plain:
    """Shapes: W_enc [d, F], b_enc [F], W_dec [F, d_out], b_dec [d_out], W_skip [d, d_out] or None, fp32.

    function: relu, topk, abs_topk, group_max, jumprelu or gated; k of the three in the middle, threshold of jumprelu,
    gate (b_gate, b_mag, r) of gated, whose b_enc is 0; keeps_negative: a topk without its ReLU; batch_k: of a jumprelu
    that was trained as batch_topk, with one threshold for all features
    """

    reads: Site
    writes: Site
    W_enc: Float[Tensor, "d F"]
    b_enc: Float[Tensor, " F"]
    W_dec: Float[Tensor, "F d_out"]
    b_dec: Float[Tensor, " d_out"]
    W_skip: Float[Tensor, "d d_out"] | None
    function: str
    is_centered: bool
    normalizer: str = "none"
    normalizer_eps: float = EPS
    k: int = 0
    keeps_negative: bool = False
    batch_k: float | None = None
    threshold: Float[Tensor, " F"] | None = None
    gate: tuple[Tensor, Tensor, Tensor] | None = None
    steps: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.W_dec.shape[0]

    def uncenter(self) -> None:
        """Let the encoder see x itself, exactly."""
        if self.is_centered:
            self._move_bias(-1)
            self.is_centered = False
            self.steps.append("centering folded into the encoder's bias")

    def center(self) -> None:
        """Let the encoder see x - b_dec, exactly."""
        if not self.is_centered:
            self._move_bias(1)
            self.is_centered = True
            self.steps.append("the encoder's bias adjusted to an input without b_dec")

    def _move_bias(self, sign: int) -> None:
        shift = sign * (self.b_dec.double() @ self.W_enc.double())
        if self.gate is None:
            self.b_enc = (self.b_enc.double() + shift).float()
        else:
            b_gate, b_mag, r = self.gate
            self.gate = (b_gate.double() + shift).float(), (b_mag.double() + r.double().exp() * shift).float(), r

    def freeze_gate(self) -> None:
        """A gated function as the jumprelu that computes the same."""
        if self.gate is not None:
            b_gate, b_mag, r = self.gate
            self.W_enc, self.b_enc, self.gate = self.W_enc * r.exp(), b_mag, None
            self.function, self.threshold = "jumprelu", (b_mag - r.exp() * b_gate).clamp_min(0.0)
            self.steps.append("gated turned into the jumprelu that computes the same")

    def fold_mean(self) -> None:
        """Let a transcoder take the mean off what it reads by its encoder, exactly."""
        if self.normalizer == "center" and self.reads != self.writes:
            self.W_enc = self.W_enc - self.W_enc.mean(0)
            self.normalizer = "none"
            self.steps.append("the mean taken off every token folded into the encoder")

    def has_unit_rows(self) -> bool:
        """Whether all decoder rows have norm 1."""
        return bool(((self.W_dec.norm(dim=1) - 1).abs() < 1e-4).all())


@torch.no_grad()
def plain(dictionary: Dictionary, layout: str) -> Plain:
    """An autoencoder in its plain form, copied. Raises CannotHold for what is none, or has a gated linear unit."""
    kind = str(dictionary.config_dict()["wiring"]["kind"])
    if not isinstance(dictionary, Autoencoder):
        raise CannotHold(f"{ONLY_NATIVE.get(kind, f'this is a {kind}')}, and {layout} has no place for it", ["native"])
    if dictionary.config.glu:
        raise CannotHold(f"{layout} has no gated linear units", ["native", "llamascopium"])
    gated = dictionary.activation if isinstance(dictionary.activation, Gated) else None
    frozen = dictionary if gated is not None else dictionary.frozen()
    function = dict(frozen.activation.config.to_dict())
    weights = {name: tensor.detach().cpu().float().clone() for name, tensor in frozen.state_dict().items()}
    made = Plain(
        reads=dictionary.reads[0],
        writes=dictionary.writes[0],
        W_enc=weights["W_enc"],
        b_enc=weights["b_enc"],
        W_dec=weights["W_dec"],
        b_dec=weights["b_dec"],
        W_skip=weights.get("W_skip"),
        function=str(function["kind"]),
        is_centered=bool(dictionary.config.center),
        normalizer=dictionary.config.normalizer,
        normalizer_eps=dictionary.config.normalizer_eps,
        k=int(function.get("k", 0)),
        keeps_negative=function.get("relu") is False,
        threshold=weights.get("activation.threshold"),
        batch_k=float(dictionary.activation.k) if isinstance(dictionary.activation, BatchTopK) else None,
    )
    if (was := str(dictionary.activation.config.to_dict()["kind"])) != made.function:
        made.steps.append(f"{was} frozen as {made.function}, as it computes at inference")
    if gated is not None:
        b_gate, b_mag, r = (weights[f"activation.{name}"] for name in ("b_gate", "b_mag", "r"))
        made.gate = b_gate + made.b_enc, b_mag + r.exp() * made.b_enc, r
        made.b_enc = torch.zeros_like(made.b_enc)
    if dictionary.config.scale_by_decoder_norm:
        _unscale(made)
    scale = dictionary.acts_scale
    if scale is not None and scale != 1.0:
        made.lost.append(
            f"acts_scale {scale:g}, for which {layout} has no place: activations stay {scale:g} times raw ones"
        )
    return made


def _unscale(made: Plain) -> None:
    norm = made.W_dec.norm(dim=1)
    is_dead = norm == 0
    if made.function == "jumprelu":
        assert made.threshold is not None
        made.W_enc[:, is_dead], made.b_enc[is_dead] = 0, 0
        made.threshold, made.batch_k = made.threshold / norm.masked_fill(is_dead, 1), None
        made.steps.append("threshold divided by the decoder norm")
    elif made.function not in ("relu", "gated"):
        made.W_enc, made.b_enc = made.W_enc * norm, made.b_enc * norm
        made.W_dec = made.W_dec / norm.masked_fill(is_dead, 1)[:, None]
        made.steps.append("decoder norms folded in: activations are multiplied by them, reconstructions are the same")
