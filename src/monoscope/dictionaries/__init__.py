"""The mathematics: every sparse decomposition, as wiring x activation function x loss terms."""

from monoscope.dictionaries.autoencoder import Autoencoder
from monoscope.dictionaries.base import Dictionary, Wiring
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.recipe import Recipe
from monoscope.dictionaries.saved import load
from monoscope.dictionaries.step import Step

__all__ = ["ActivationFunction", "Autoencoder", "Dictionary", "Recipe", "Step", "Wiring", "load"]
