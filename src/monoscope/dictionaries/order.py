"""Which of two sites a model comes to first, as far as their names tell."""

from __future__ import annotations

from collections.abc import Sequence

from monoscope.core.errors import ConfigError
from monoscope.core.site import Site

STAGE = {
    "resid_pre": 0,
    "attn_normalized": 1,
    "attn_in": 1,
    "q": 2,
    "k": 2,
    "v": 2,
    "pattern": 3,
    "z": 4,
    "attn_out": 5,
    "resid_mid": 6,
    "mlp_normalized": 7,
    "mlp_in": 7,
    "mlp_act": 8,
    "mlp_out": 9,
    "resid_post": 10,
}
"""Order of sites within a layer; where attention and MLP stand side by side, neither sees the other."""


def comes_before(first: Site, second: Site) -> bool:
    """Whether one model comes to ``first`` before ``second``; False where that cannot be told, or never matters."""
    same_pass = (first.model, first.stack) == (second.model, second.stack)
    if not same_pass or first.module is not None or second.module is not None or first == second:
        return False
    return _place(first) < _place(second)


def _place(site: Site) -> tuple[float, int]:
    if site.layer is None:
        return (-1.0 if site.kind == "embed" else float("inf"), 0)
    return (float(site.layer), STAGE[site.kind])


def check_distinct(sites: Sequence[Site], verb: str) -> None:
    """Raise ConfigError for a site that is named twice."""
    if twice := [site for site in sites if list(sites).count(site) > 1]:
        raise ConfigError(f"{twice[0]} is {verb} twice; name each site once")
