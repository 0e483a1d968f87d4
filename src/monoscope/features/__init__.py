"""What a feature is: everything about it, collected in one pass over text, and kept in a bundle anyone can open.

bundle = analyze(dictionary, live(lm, windows, ["2.resid_post"]), "features.mono", lm=lm)
feature = bundle.feature(1043)

A bundle is read without torch, so the names load what they need when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monoscope.features.analysis import analyze, analyze_part
    from monoscope.features.bundle import FeatureBundle
    from monoscope.features.records import Context, Feature
    from monoscope.features.settings import Analysis

__all__ = ["Analysis", "Context", "Feature", "FeatureBundle", "analyze", "analyze_part"]

_HOMES = {
    "Analysis": "settings",
    "Context": "records",
    "Feature": "records",
    "FeatureBundle": "bundle",
    "analyze": "analysis",
    "analyze_part": "analysis",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'monoscope.features' has no attribute {name!r}")
    return getattr(import_module(f"monoscope.features.{_HOMES[name]}"), name)
