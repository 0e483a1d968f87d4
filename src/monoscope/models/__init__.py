"""A language model: read and edit activations at its sites."""

from monoscope.models.language_model import Edit, LanguageModel, current_positions

__all__ = ["Edit", "LanguageModel", "current_positions"]
