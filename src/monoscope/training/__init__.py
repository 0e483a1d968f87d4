"""Training: one loop for every dictionary."""

from monoscope.training.history import History
from monoscope.training.settings import Parallel, Training
from monoscope.training.thresholds import to_jumprelu
from monoscope.training.train import RunConfig, train

__all__ = ["History", "Parallel", "RunConfig", "Training", "to_jumprelu", "train"]
