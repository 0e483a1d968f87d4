"""The mathematics: every sparse decomposition, as wiring x activation function x loss terms."""

from monoscope.dictionaries.autoencoder import Autoencoder
from monoscope.dictionaries.base import ActivationFunction, Dictionary, Step, Wiring
from monoscope.dictionaries.recipe import Recipe
from monoscope.dictionaries.saved import load

__all__ = ["ActivationFunction", "Autoencoder", "Dictionary", "Recipe", "Step", "Wiring", "load"]
