"""monoscope takes a language model apart into features people can read, and hands those features back as tools."""

# pyright: reportUnsupportedDunderAll=false
# Type checkers read __init__.pyi.

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

__all__ = [
    "ActivationBatch",
    "ActivationSource",
    "ActivationStore",
    "Acts",
    "Analysis",
    "Dictionary",
    "Edit",
    "Evaluation",
    "FeatureBundle",
    "History",
    "LanguageModel",
    "MonoscopeError",
    "Recipe",
    "Site",
    "TokenWindows",
    "Training",
    "UserError",
    "ablate",
    "analyze",
    "clamp",
    "evaluate",
    "from_array",
    "live",
    "load",
    "patch",
    "repeat",
    "serve",
    "shuffle",
    "splice",
    "steer",
    "synthetic",
    "to_jumprelu",
    "together",
    "train",
]

_HOMES = {
    "ActivationBatch": "core.batch",
    "ActivationSource": "harvest",
    "ActivationStore": "harvest",
    "Acts": "core.acts",
    "Analysis": "features",
    "Dictionary": "dictionaries",
    "Edit": "models",
    "Evaluation": "evals",
    "FeatureBundle": "features",
    "History": "training",
    "LanguageModel": "models",
    "MonoscopeError": "core.errors",
    "Recipe": "dictionaries",
    "Site": "core.site",
    "TokenWindows": "harvest",
    "Training": "training",
    "UserError": "core.errors",
    "ablate": "interventions",
    "analyze": "features",
    "clamp": "interventions",
    "evaluate": "evals",
    "from_array": "harvest",
    "live": "harvest",
    "load": "formats",
    "patch": "interventions",
    "repeat": "harvest",
    "serve": "server",
    "shuffle": "harvest",
    "splice": "interventions",
    "steer": "interventions",
    "synthetic": "harvest",
    "to_jumprelu": "training",
    "together": "harvest",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'monoscope' has no attribute {name!r}")
    return getattr(import_module(f"monoscope.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
