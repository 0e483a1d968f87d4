"""The mathematics: every sparse decomposition, as wiring x activation function x loss terms."""

from monoscope.dictionaries.autoencoder import Autoencoder
from monoscope.dictionaries.base import Dictionary, Wiring
from monoscope.dictionaries.cross_layer import CrossLayer
from monoscope.dictionaries.crosscoder import Crosscoder
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.itda import ITDA, chance_jaccard, jaccard
from monoscope.dictionaries.lorsa import Lorsa
from monoscope.dictionaries.molt import Molt
from monoscope.dictionaries.pursuit import MatchingPursuit
from monoscope.dictionaries.recipe import Recipe
from monoscope.dictionaries.saved import load
from monoscope.dictionaries.step import Step

__all__ = [
    "ITDA",
    "ActivationFunction",
    "Autoencoder",
    "CrossLayer",
    "Crosscoder",
    "Dictionary",
    "Lorsa",
    "MatchingPursuit",
    "Molt",
    "Recipe",
    "Step",
    "Wiring",
    "chance_jaccard",
    "jaccard",
    "load",
]
