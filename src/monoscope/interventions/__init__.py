"""Changes to a language model's forward pass, stated in a dictionary's features."""

from monoscope.interventions.edits import ablate, clamp, patch, steer
from monoscope.interventions.spec import Steering
from monoscope.interventions.splice import splice

__all__ = ["Steering", "ablate", "clamp", "patch", "splice", "steer"]
