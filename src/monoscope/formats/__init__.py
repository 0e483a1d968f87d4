"""Other people's dictionaries: every layout of the field opened as an ordinary Dictionary, and written from one."""

from monoscope.formats.check import Check, check, choose
from monoscope.formats.convert import Conversion, convert
from monoscope.formats.convert_set import SetConversion, convert_set
from monoscope.formats.layout import Layout, Receipt
from monoscope.formats.lazy import Lazy
from monoscope.formats.open import find, load, open
from monoscope.formats.opened import About, Opened

__all__ = [
    "About",
    "Check",
    "Conversion",
    "Layout",
    "Lazy",
    "Opened",
    "Receipt",
    "SetConversion",
    "check",
    "choose",
    "convert",
    "convert_set",
    "find",
    "load",
    "open",
]
