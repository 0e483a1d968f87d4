"""Training: one loop for every dictionary."""

from monoscope.training.settings import Training
from monoscope.training.thresholds import to_jumprelu
from monoscope.training.train import RunConfig, train

__all__ = ["RunConfig", "Training", "to_jumprelu", "train"]
