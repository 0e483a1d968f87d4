"""What other tools call a bundle: its layer, its source, its text."""

from __future__ import annotations

import re

from monoscope.core.errors import SiteError
from monoscope.core.site import Site
from monoscope.features.bundle import FeatureBundle


def layer_of(bundle: FeatureBundle) -> int:
    """Layer of the site that the features write; 0 for one outside the layers."""
    writes = bundle.manifest["dictionary"]["writes"]
    try:
        return (Site.parse(writes[0]).layer or 0) if writes else 0
    except SiteError:
        return 0


def model_of(bundle: FeatureBundle) -> str:
    """The model's name without its organization, in lower case, as dashboards address it."""
    return _slug(str(bundle.manifest["model"]["id"] or "unknown").rstrip("/").rsplit("/", 1)[-1])


def source_of(bundle: FeatureBundle) -> str:
    """Layer, origin, kind of site and width: ``2-monoscope-res-3k``."""
    writes = bundle.manifest["dictionary"]["writes"]
    kind = writes[0].split("@")[0].split(".")[-1] if writes else "features"
    short = {"resid_post": "res", "resid_pre": "res-pre", "resid_mid": "res-mid", "mlp_out": "mlp", "attn_out": "att"}
    width = f"{len(bundle) // 1024}k" if len(bundle) >= 1024 else len(bundle)
    return _slug(f"{layer_of(bundle)}-monoscope-{short.get(kind, kind)}-{width}")


def dataset_of(bundle: FeatureBundle) -> str:
    """Name of the text the features were described on."""
    dataset = bundle.manifest["data"]["dataset"]
    return str(dataset.get("kind", "text")) if isinstance(dataset, dict) else str(dataset or "not stated")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-") or "unknown"
