"""Changes to a language model's forward pass, stated in a dictionary's features."""

from monoscope.interventions.edits import ablate, clamp, patch, steer
from monoscope.interventions.splice import splice

__all__ = ["ablate", "clamp", "patch", "splice", "steer"]
