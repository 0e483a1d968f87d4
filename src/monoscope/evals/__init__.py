"""What dictionaries are worth: metrics, evaluations, and exact labels to evaluate against."""

from monoscope.evals.evaluate import evaluate
from monoscope.evals.evaluation import Evaluation
from monoscope.evals.python_labels import PythonLabels, python_labels
from monoscope.evals.window_labels import window_labels
from monoscope.evals.worlds import mean_max_cosine, recovery

__all__ = [
    "Evaluation",
    "PythonLabels",
    "evaluate",
    "mean_max_cosine",
    "python_labels",
    "recovery",
    "window_labels",
]
