"""All layouts, in the order in which errors list them. A new layout is one module and one line here."""

from __future__ import annotations

from monoscope.core.errors import ConfigError, nearest
from monoscope.formats.layout import Layout
from monoscope.formats.native import Native

LAYOUTS: tuple[Layout, ...] = (Native(),)


def layout_of(name: str) -> Layout:
    """The layout of a name. Raises ConfigError for one there is not."""
    by_name = {layout.name: layout for layout in LAYOUTS}
    if name not in by_name:
        raise ConfigError(f"unknown layout {name!r}; {nearest(name, by_name)}")
    return by_name[name]
