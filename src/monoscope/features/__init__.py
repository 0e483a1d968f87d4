"""What a feature is: everything about it, collected in one pass over text, and kept in a bundle anyone can open.

bundle = analyze(dictionary, live(lm, windows, ["2.resid_post"]), "features.mono", lm=lm)
feature = bundle.feature(1043)
"""

from __future__ import annotations

from monoscope.features.analyze import Analysis, analyze
from monoscope.features.bundle import FeatureBundle
from monoscope.features.records import Context, Feature

__all__ = ["Analysis", "Context", "Feature", "FeatureBundle", "analyze"]
