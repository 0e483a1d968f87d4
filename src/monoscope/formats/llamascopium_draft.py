"""What is being written for llamascopium: a dictionary as it computes at inference, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from monoscope.core.errors import CannotHold, SiteError
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.formats.layout import Receipt
from monoscope.formats.llamascopium_found import THRESHOLD
from monoscope.formats.opened import About
from monoscope.models.names import lens_name

CONFIG, WEIGHTS = "config.json", "sae_weights.safetensors"
FUNCTIONS = {"relu": "relu", "jumprelu": "jumprelu", "topk": "topk", "layer_topk": "layertopk"}


@dataclass
class Draft:
    """What is being written.

    frozen: the dictionary as it computes at inference; weights: its state, copied, in fp32; about: what is known of it
    scales: by hook point, where config.json says dataset-wise
    """

    frozen: Dictionary
    about: About
    model: str | None
    weights: dict[str, Tensor]
    receipt: Receipt = field(default_factory=lambda: Receipt("llamascopium", [CONFIG, WEIGHTS]))
    scales: dict[str, float] = field(default_factory=dict)

    @property
    def d(self) -> int:
        """The one width. Raises CannotHold where there are two."""
        widths = set(self.frozen.widths.values())
        if len(widths) > 1:
            raise CannotHold(f"llamascopium reads and writes one width, found {sorted(widths)}", ["native"])
        return widths.pop()

    def hook(self, site: Site) -> str:
        """The hook point of a site. Raises CannotHold where TransformerLens has none."""
        try:
            return lens_name(site, self.model)
        except SiteError as error:
            raise CannotHold(f"llamascopium names sites as TransformerLens does: {error}", ["native"]) from None

    def hooks(self, sites: tuple[Site, ...]) -> list[str]:
        """Hook points of sites."""
        return [self.hook(site) for site in sites]

    def function(self, n_features: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Settings and tensors of the function. Raises CannotHold for one that the library lacks."""
        table = dict(self.frozen.activation.config.to_dict())
        kind = str(table["kind"])
        if kind not in FUNCTIONS or table.get("relu") is False:
            said = "a topk without its ReLU" if kind == "topk" else kind
            nearest = (
                ["thresholds in its place (monoscope.training.to_jumprelu)"] if kind == "group_max" else ["native"]
            )
            raise CannotHold(f"llamascopium has relu, jumprelu and topk, not {said}", nearest)
        settings: dict[str, Any] = {"act_fn": FUNCTIONS[kind]}
        if kind in ("topk", "layer_topk"):
            settings["top_k"] = table["k"]
        if kind != "jumprelu":
            return settings, {}
        self.receipt.steps.append("threshold stored as its logarithm")
        threshold = self.weights["activation.threshold"].view(-1, n_features).squeeze(0)
        return settings | {"jumprelu_threshold_window": table.get("bandwidth", 2.0)}, {THRESHOLD: threshold.log()}
