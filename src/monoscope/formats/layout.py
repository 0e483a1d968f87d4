"""Layout: how one library, or one published set, lays a dictionary out in files. One module each.

A layout's docstring states the forward rule that its files imply, and the traps. It returns an ``Opened``: the
canonical table and tensors, unread, with everything that was inferred said in words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from monoscope.core.errors import CannotHold
from monoscope.dictionaries import Dictionary
from monoscope.formats.folder import Folder
from monoscope.formats.opened import About, Opened


@dataclass
class Receipt:
    """What writing a dictionary in a layout did to it.

    files: names that were written; steps: what was done, in words ("W_enc transposed"); lost: what the layout does not
    say; choices: rules that its files leave open, with which they are read back
    """

    layout: str
    files: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)


class Layout(ABC):
    """One layout of files."""

    name: ClassVar[str]
    """What ``--format`` and ``--to`` call it."""

    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Rules that its files may leave open, with their possible values, the likeliest first; none: any text."""

    @abstractmethod
    def evidence(self, folder: Folder) -> str | None:
        """Why a folder is of this layout, in words, by names, headers and configurations alone; None if it is not."""

    def entries(self, folder: Folder) -> list[str]:
        """What a set holds, as the rest of a path: of files their names, of directories theirs. ``[""]``: just one."""
        return [""]

    @abstractmethod
    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """One dictionary of a folder. Raises DataError, naming the file and what is wrong.

        ``choices`` settle what files leave open; what is not chosen takes the likeliest value, and says so. The rules
        that this dictionary's files leave open, each with the value taken, are ``about.chosen``: activations, where
        there are some, decide between their values (``Found.fitted``).
        """

    def summary(self, folder: Folder) -> dict[str, Any] | None:
        """What files are that hold something else than dictionaries; None for layouts of dictionaries."""
        return None

    def write(self, dictionary: Dictionary, directory: Path, about: About) -> Receipt:
        """Write a dictionary into an empty directory. Raises CannotHold for what the layout cannot say."""
        raise CannotHold(f"{self.name} is read, not written", nearest=("saelens",))

    def write_set(self, dictionaries: Sequence[Dictionary], directory: Path, about: About) -> Receipt:
        """Write dictionaries of all layers, in order, into an empty directory. Raises CannotHold, as ``write`` does."""
        raise CannotHold(f"{self.name} has one dictionary in a directory: convert them one by one")

    @property
    def is_written(self) -> bool:
        """Whether the layout is written, too."""
        return type(self).write is not Layout.write

    @property
    def takes_sets(self) -> bool:
        """Whether dictionaries of several layers are written together."""
        return type(self).write_set is not Layout.write_set
