"""Other people's dictionaries: every layout of the field opened as an ordinary Dictionary, and written from one."""

from monoscope.formats.layout import Layout, Receipt
from monoscope.formats.lazy import Lazy
from monoscope.formats.open import find, load, open
from monoscope.formats.opened import About, Opened

__all__ = ["About", "Layout", "Lazy", "Opened", "Receipt", "find", "load", "open"]
