"""The widgets: what a feature is goes to the browser; the token that is pointed at or picked comes back.

``selected`` and ``hovered`` are None or ``{"sequence", "position", "token", "value"}``: the number of a stored
sequence of the bundle, a position in it, and the token and activation there.
"""

from __future__ import annotations

from typing import Any

import anywidget
import traitlets

from monoscope.core.errors import DataError
from monoscope.features.bundle import FeatureBundle
from monoscope.features.drawn import drawn
from monoscope.features.records import Feature
from monoscope.features.widgets.built import elements

PREFETCH = 3
MOST_ASKED = 16


class FeatureView(anywidget.AnyWidget):
    """One feature."""

    _esm = elements()
    data = traitlets.Dict().tag(sync=True)
    feature = traitlets.Int().tag(sync=True)
    n_features = traitlets.Int(1).tag(sync=True)
    prefetch = traitlets.Int(0).tag(sync=True)
    selected = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    hovered = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)

    @classmethod
    def of(cls, feature: Feature) -> FeatureView:
        """The view of a feature."""
        return cls(data=drawn(feature), feature=feature.index)


class Explorer(FeatureView):
    """The features of a bundle: set ``feature``, or walk in the view, which asks for those that come next."""

    _bundle: FeatureBundle

    @classmethod
    def of(cls, bundle: FeatureBundle, feature: int = 0) -> Explorer:  # type: ignore[override]
        """The view of a bundle that starts with a feature. Raises DataError for one that is not there."""
        data = drawn(bundle.feature(feature), bundle.special)
        view = cls(data=data, feature=feature, n_features=len(bundle), prefetch=PREFETCH)
        view._bundle = bundle
        view.observe(view._changed, "feature")
        view.on_msg(view._asked)
        return view

    @traitlets.validate("feature")
    def _valid(self, proposal: Any) -> int:
        if not 0 <= proposal["value"] < self.n_features:
            raise traitlets.TraitError(f"there is no feature {proposal['value']}: 0 to {self.n_features - 1} are")
        return proposal["value"]

    def _record(self, index: int) -> dict[str, Any]:
        return drawn(self._bundle.feature(index), self._bundle.special)

    def _changed(self, change: Any) -> None:
        with self.hold_sync():
            self.selected = self.hovered = None
            self.data = self._record(change["new"])

    def _asked(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """Answer what a browser asks for; anything that is no list of features is left alone."""
        if (
            not isinstance(content, dict)
            or content.get("kind") != "ask"
            or not isinstance(content.get("features"), list)
        ):
            return
        wanted = [index for index in content["features"][:MOST_ASKED] if type(index) is int]
        found = []
        for index in wanted:
            try:
                found.append(self._record(index))
            except DataError:
                continue
        self.send({"kind": "features", "features": found})
