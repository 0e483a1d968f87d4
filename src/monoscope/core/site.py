"""Site: the name of a place in a language model where activations are read or written.

2.resid_post                 layer 2, residual stream after the block
encoder.2.resid_post         the same in one stack of an encoder-decoder
embed, logits                places outside the layers
model.layers.2.mlp:out       any module's input (":in") or output (":out"), by its path
2.resid_post@step512         any of these in one of several models, by the label it goes by
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic_core import core_schema

from monoscope.core.errors import SiteError, nearest

LAYER_KINDS = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_normalized",
    "attn_in",
    "q",
    "k",
    "v",
    "pattern",
    "z",
    "attn_out",
    "mlp_normalized",
    "mlp_in",
    "mlp_out",
    "mlp_act",
)
MODEL_KINDS = ("embed", "logits")
KINDS = LAYER_KINDS + MODEL_KINDS
NORMALIZED_KINDS = ("attn_normalized", "mlp_normalized")
LABEL = r"\w[\w.+-]*"

TRANSFORMER_LENS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_in": "resid_pre",
    "hook_q_input": "resid_pre",
    "hook_k_input": "resid_pre",
    "hook_v_input": "resid_pre",
    "hook_mlp_in": "resid_mid",
    "ln1.hook_normalized": "attn_normalized",
    "ln2.hook_normalized": "mlp_normalized",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_q": "q",
    "attn.hook_k": "k",
    "attn.hook_v": "v",
    "attn.hook_pattern": "pattern",
    "attn.hook_z": "z",
    "mlp.hook_in": "mlp_in",
    "mlp.hook_out": "mlp_out",
    "mlp.hook_post": "mlp_act",
}
"""TransformerLens (and circuit-tracer) names within a block, as most families have them. A model that is known may mean
something else by one, and then says so: `monoscope.models.names`. ``hook_attn_in`` and ``hook_mlp_in`` are the stream
in front of the norm, not what attention and MLP read."""


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a model: ``Site(12, "resid_post")`` prints as ``12.resid_post``.

    ``layer`` is None for places outside the layers; ``stack`` tells the halves of an encoder-decoder apart;
    ``module`` is set for a raw module path, and then ``kind`` is ``in`` or ``out``; ``model`` is the label of the model
    where activations come from several.
    """

    layer: int | None
    kind: str
    stack: Literal["", "encoder", "decoder"] = ""
    module: str | None = None
    model: str = ""

    def __post_init__(self) -> None:
        if self.model and not re.fullmatch(LABEL, self.model):
            raise SiteError(
                f"a model's label is made of letters, digits and _ . + -, as in '2.resid_post@step512'; "
                f"found {self.model!r}"
            )
        if self.module is not None:
            if self.kind not in ("in", "out"):
                raise SiteError(f"a module path ends in ':in' or ':out', found {self.kind!r}")
            return
        if self.kind not in KINDS:
            raise SiteError(f"unknown site kind {self.kind!r}; {nearest(self.kind, KINDS)}")
        if (self.layer is None) != (self.kind in MODEL_KINDS):
            where = "has no layer" if self.kind in MODEL_KINDS else "needs a layer, as in '2.resid_post'"
            raise SiteError(f"site kind {self.kind!r} {where}")
        if self.layer is not None and self.layer < 0:
            raise SiteError(f"layers count from 0, found {self.layer}")

    def __str__(self) -> str:
        label = f"@{self.model}" if self.model else ""
        if self.module is not None:
            return f"{self.module}:{self.kind}{label}"
        parts = [self.stack, "" if self.layer is None else str(self.layer), self.kind]
        return ".".join(part for part in parts if part) + label

    def __lt__(self, other: Site) -> bool:
        return self._order() < other._order()

    def _order(self) -> tuple[Any, ...]:
        return (self.stack, -1 if self.layer is None else self.layer, self.kind, self.module or "", self.model)

    def of(self, model: str) -> Site:
        """The same place in the model of a label; "" takes the label away."""
        return replace(self, model=model)

    @staticmethod
    def parse(name: str | Site) -> Site:
        """Site of a name; TransformerLens names (``blocks.12.hook_resid_post``) are understood."""
        if isinstance(name, Site):
            return name
        if not isinstance(name, str):
            raise SiteError(f"a site is written as text, such as '2.resid_post'; found {name!r}")
        if found := re.fullmatch(r"(.+):(in|out)", name):
            return Site(None, found[2], module=found[1])
        if found := re.fullmatch(rf"(.+)@({LABEL})", name):
            site = Site.parse(found[1])
            if site.model:
                raise SiteError(f"{name!r} names two models, and {str(site)!r} has a label already; write one @label")
            return site.of(found[2])
        if name == "hook_embed":
            return Site(None, "embed")
        if found := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
            if found[2] not in TRANSFORMER_LENS:
                raise SiteError(f"unknown TransformerLens name {name!r}; {nearest(found[2], TRANSFORMER_LENS)}")
            return Site(int(found[1]), TRANSFORMER_LENS[found[2]])
        if found := re.fullmatch(r"(?:(encoder|decoder)\.)?(?:(\d+)\.)?(\w+)", name):
            stack: Any = found[1] or ""
            return Site(None if found[2] is None else int(found[2]), found[3], stack)
        raise SiteError(f"cannot read {name!r} as a site; write '2.resid_post', 'embed', or 'model.layers.2.mlp:out'")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Configs hold sites and files hold their names."""
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )
