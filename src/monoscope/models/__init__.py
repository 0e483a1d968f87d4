"""A language model: read and edit activations at its sites."""

from monoscope.models.edits import Edit, current_positions
from monoscope.models.language_model import LanguageModel

__all__ = ["Edit", "LanguageModel", "current_positions"]
