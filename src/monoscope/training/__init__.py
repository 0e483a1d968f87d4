"""Training: one loop for every dictionary."""

from monoscope.training.settings import Training
from monoscope.training.train import train

__all__ = ["Training", "train"]
