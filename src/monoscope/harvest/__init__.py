"""Activations as a stream: text becomes token windows, a model reads them, and what it thinks can be kept.

windows = StandardLibrary(split="train").windows(lm, context=256)
source = shuffle(live(lm, windows.shuffled(seed=0), ["2.resid_post"]), seed=0)
store = harvest(live(lm, windows, ["2.resid_post"]), "activations")
"""

from __future__ import annotations

from monoscope.harvest.ahead import ahead
from monoscope.harvest.array import from_array
from monoscope.harvest.live import SkipPolicy, live
from monoscope.harvest.sequences import sequences
from monoscope.harvest.shuffle import shuffle
from monoscope.harvest.source import ActivationSource, repeat, take
from monoscope.harvest.store import ActivationStore
from monoscope.harvest.synthetic import SyntheticSource, synthetic
from monoscope.harvest.text import (
    Conversations,
    Datasets,
    Files,
    Sampled,
    StandardLibrary,
    TextSource,
    TokenWindows,
)
from monoscope.harvest.together import together
from monoscope.harvest.world import Companions, Tree, World
from monoscope.harvest.writer import harvest, harvest_part

__all__ = [
    "ActivationSource",
    "ActivationStore",
    "Companions",
    "Conversations",
    "Datasets",
    "Files",
    "Sampled",
    "SkipPolicy",
    "StandardLibrary",
    "SyntheticSource",
    "TextSource",
    "TokenWindows",
    "Tree",
    "World",
    "ahead",
    "from_array",
    "harvest",
    "harvest_part",
    "live",
    "repeat",
    "sequences",
    "shuffle",
    "synthetic",
    "take",
    "together",
]
