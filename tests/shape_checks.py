"""The checker of types and shapes that tests put around every function of the package (see pyproject.toml)."""

from __future__ import annotations

from io import TextIOBase
from typing import Any, Self, TextIO

from beartype import BeartypeConf, FrozenDict, beartype

# Methods are wrapped one by one, where Self has no class to mean; of a TextIO, beartype asks for attributes that
# io.StringIO lacks; and an int is a float, as PEP 484 has it.
meanings = FrozenDict({Self: Any, TextIO: TextIOBase})
typechecker = beartype(conf=BeartypeConf(hint_overrides=meanings, is_pep484_tower=True))
