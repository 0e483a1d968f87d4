"""Features as live views in notebooks: the web interface's own components, in a widget.

anywidget is imported when a view is asked for, and not before.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from monoscope.core.errors import UserError
from monoscope.features.widgets.built import elements

if TYPE_CHECKING:
    from monoscope.features.bundle import FeatureBundle
    from monoscope.features.records import Feature
    from monoscope.features.widgets.views import Explorer, FeatureView


def show_feature(feature: Feature) -> FeatureView:
    """A live view of one feature. Raises UserError without anywidget or without the built interface."""
    _check()
    from monoscope.features.widgets.views import FeatureView

    return FeatureView.of(feature)


def explore(bundle: FeatureBundle, feature: int = 0) -> Explorer:
    """A live view that goes from feature to feature of a bundle. Raises UserError as ``show_feature`` does."""
    _check()
    from monoscope.features.widgets.views import Explorer

    return Explorer.of(bundle, feature)


def _check() -> None:
    if find_spec("anywidget") is None:
        raise UserError("live views need anywidget, which is not installed: pip install 'monoscope[notebook]'")
    elements()
