"""All layouts, in the order in which errors list them. A new layout is one module and one line here."""

from __future__ import annotations

from monoscope.core.errors import ConfigError, nearest
from monoscope.formats.circuit_tracer import CircuitTracer
from monoscope.formats.delphi import Delphi
from monoscope.formats.dictionary_learning import DictionaryLearning
from monoscope.formats.gemma_scope import GemmaScope
from monoscope.formats.gemma_scope_2 import GemmaScope2
from monoscope.formats.goodfire import Goodfire, QResearch
from monoscope.formats.layout import Layout
from monoscope.formats.llama_scope import LlamaScope, R1Distill
from monoscope.formats.llamascopium import Llamascopium
from monoscope.formats.native import Native
from monoscope.formats.openai import OpenAI
from monoscope.formats.qwen_scope import QwenScope
from monoscope.formats.saelens import SAELens
from monoscope.formats.saelens_old import SAELensOld
from monoscope.formats.small import AttentionAutoencoders, Temporal
from monoscope.formats.sparsify import Sparsify

LAYOUTS: tuple[Layout, ...] = (
    Native(),
    SAELens(),
    SAELensOld(),
    Sparsify(),
    DictionaryLearning(),
    Llamascopium(),
    CircuitTracer(),
    GemmaScope(),
    GemmaScope2(),
    LlamaScope(),
    R1Distill(),
    QwenScope(),
    OpenAI(),
    Goodfire(),
    QResearch(),
    AttentionAutoencoders(),
    Temporal(),
    Delphi(),
)


def layout_of(name: str) -> Layout:
    """The layout of a name. Raises ConfigError for one there is not."""
    by_name = {layout.name: layout for layout in LAYOUTS}
    if name not in by_name:
        raise ConfigError(f"unknown layout {name!r}; {nearest(name, by_name)}")
    return by_name[name]
