"""What a configuration of llamascopium says, checked as it is asked for, and the tensors beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from monoscope.core.errors import ConfigError, DataError, SiteError
from monoscope.formats.lazy import Lazy
from monoscope.formats.opened import check_shape, check_tensors
from monoscope.models.families import FAMILIES
from monoscope.models.names import Translated, family_named, is_foreign, translate

_ONE = {"hook_point_in", "hook_point_out"}
KEYS: dict[str, set[str]] = {
    "sae": _ONE | {"use_glu_encoder"},
    "crosscoder": {"hook_points"},
    "clt": {
        "hook_points_in", "hook_points_out", "init_cross_layer_decoder_all_zero", "decode_with_csr",
        "sparsity_threshold_for_csr",
    },
    "molt": _ONE | {"rank_counts"},
    "lorsa": _ONE | {
        "n_qk_heads", "d_qk_head", "positional_embedding_type", "rotary_dim", "rotary_base", "rotary_adjacent_pairs",
        "rotary_scale", "use_NTK_by_parts_rope", "NTK_by_parts_factor", "NTK_by_parts_low_freq_factor",
        "NTK_by_parts_high_freq_factor", "old_context_len", "n_ctx", "attn_scale", "use_post_qk_ln",
        "normalization_type", "eps",
    },
}  # fmt: skip
"""Settings of each sae_type, beside those that all have."""

THRESHOLD = "activation_function.log_jumprelu_threshold"
Made = tuple[dict[str, Any], dict[str, Lazy]]
"""The table and the tensors of an ``Opened``."""


@dataclass(frozen=True)
class Found:
    """A configuration and its tensors, and what was settled about them.

    model: the language model's name, where it is said
    at: the site at which a crosscoder reads several models, whose labels then stand for hook points
    scales: what activations are multiplied by at each hook point, 1 where it is in the weights
    act_fn: the function, where it is not the configuration's
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Lazy]
    where: str
    model: str | None = None
    at: str | None = None
    scales: Mapping[str, float] = field(default_factory=dict)
    is_token_wise: bool = False
    act_fn: str = "relu"

    def setting(self, key: str, kind: type, default: Any = None) -> Any:
        """A setting. Raises ConfigError for one that is missing or of another kind."""
        value = self.config.get(key, default)
        if kind is float and type(value) is int:
            value = float(value)
        if value is None or type(value) is not kind:
            said = f"{key} = {value!r}" if key in self.config else f"no {key!r}"
            raise ConfigError(f"{self.where} has {said}, where a {kind.__name__} is expected")
        return value

    def hooks(self, key: str) -> list[str]:
        """Hook points of a setting that lists them."""
        value = self.setting(key, list)
        if not value or not all(isinstance(hook, str) for hook in value):
            raise ConfigError(f"{self.where} has {key} = {value!r}, where names of hook points are expected")
        return value

    @property
    def hooks_in(self) -> list[str]:
        """Hook points that are read."""
        if "hook_points" in self.config:
            return self.hooks("hook_points")
        return self.hooks("hook_points_in") if "hook_points_in" in self.config else [self.setting("hook_point_in", str)]

    @property
    def hooks_out(self) -> list[str]:
        """Hook points that are written."""
        if "hook_points" in self.config:
            return self.hooks("hook_points")
        many = "hook_points_out" in self.config
        return self.hooks("hook_points_out") if many else [self.setting("hook_point_out", str)]

    @property
    def d(self) -> int:
        """Width."""
        return self.setting("d_model", int)

    @property
    def n_features(self) -> int:
        """Features, of one layer where there are several."""
        return int(self.d * self.setting("expansion_factor", float))

    @property
    def has_bias(self) -> bool:
        """Whether the decoder has a bias."""
        return self.setting("use_decoder_bias", bool, True)

    @property
    def is_scaled(self) -> bool:
        """Whether scores are pre-activations times decoder norms."""
        return self.setting("sparsity_include_decoder_norm", bool, True)

    def scale(self, hook: str) -> float:
        """What activations at a hook point are multiplied by."""
        return self.scales.get(hook, 1.0)

    def take(self, *names: str, skip: Collection[str] = ()) -> None:
        """Raises DataError unless the file holds just these tensors, and the thresholds where the function has some."""
        thresholds = {THRESHOLD} if self.act_fn == "jumprelu" else set()
        check_tensors(self.tensors, {*names} | thresholds, set(skip), f"the weights of {self.where}")

    def tensor(self, name: str, *shape: int | None) -> Lazy:
        """A tensor of a shape."""
        check_shape(self.tensors[name], shape, name, f"the weights of {self.where}")
        return self.tensors[name]

    def threshold(self, *shape: int) -> Lazy:
        """Thresholds, from their logarithms, in fp32 whatever they are stored in."""
        return self.tensor(THRESHOLD, *shape).cast(torch.float32).elementwise(torch.exp)

    def function(self, **names: str) -> dict[str, Any]:
        """The table of the activation function; ``names`` are what the wiring calls those of several layers."""
        match self.act_fn:
            case "relu":
                return {"kind": "relu"}
            case "jumprelu":
                return {"kind": "jumprelu", "bandwidth": self.setting("jumprelu_threshold_window", float, 2.0) or 2.0}
            case "topk" | "layertopk" if self.act_fn == "topk" or "layertopk" in names:
                return {"kind": names.get(self.act_fn, "topk"), "k": self.setting("top_k", int, 50)}
            case other:
                raise DataError(
                    f"{self.where} has act_fn {other!r} for sae_type {self.config['sae_type']!r}, which is not read; "
                    "known: relu, jumprelu, topk, batchtopk, and of a clt layertopk and batchlayertopk"
                )

    def table(self, wiring: dict[str, Any], function: dict[str, Any]) -> dict[str, Any]:
        """The table of the dictionary."""
        reads, writes = ([str(self.site(hook).site) for hook in hooks] for hooks in (self.hooks_in, self.hooks_out))
        scales = [self.scale(hook) for hook in self.hooks_in]
        return {
            "wiring": wiring,
            "function": function,
            "reads": reads,
            "writes": writes,
            "widths": dict.fromkeys([*reads, *writes], self.d),
            "acts_scale": scales[0] if len(scales) == 1 else scales,
        }

    def site(self, hook: str) -> Translated:
        """The site of a hook point. Raises ConfigError for a name that means no tensor."""
        try:
            if self.at is not None:
                return Translated(translate(self.at, self.model).site.of(hook))
            if not is_foreign(hook):
                raise SiteError(f"{hook!r} is no name of TransformerLens'")
            return translate(hook, self.model)
        except SiteError as error:
            several = "hook_points" in self.config and self.at is None
            words = "; if they are labels of models or snapshots, say at which site, as site=6.resid_post"
            raise ConfigError(
                f"{self.where} names a hook point that is no site: {error}{words if several else ''}"
            ) from None

    def notes(self) -> list[str]:
        """What to know about its sites."""
        hooks = dict.fromkeys([*self.hooks_in, *self.hooks_out])
        notes = list(dict.fromkeys(note for hook in hooks for note in self.site(hook).notes))
        family = FAMILIES.get(family_named(self.model or "") or "")
        if family is None or family.centers:
            notes.append(
                "activations of a model with LayerNorm came from TransformerLens, which centers its residual stream "
                "unless it is told not to"
            )
        return notes

    def refuse_token_wise(self) -> None:
        """Raises DataError where activations are normalized token by token, which only an SAE undoes at inference."""
        if self.is_token_wise:
            raise DataError(
                f"{self.where} has norm_activation 'token-wise', where what is written is not what is read: the norm "
                "of what is written is not known at inference, so that no reconstruction can be given"
            )


def times(lazy: Lazy, factor: float) -> Lazy:
    """Scaled, unless by 1, which would only widen what is stored in a narrower type."""
    return lazy if factor == 1 else lazy.scaled(factor)
