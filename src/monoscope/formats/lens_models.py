"""Language models as TransformerLens calls them, and as the hub does.

    gpt2-small, gpt2        openai-community/gpt2               gemma-2-2b      google/gemma-2-2b
    pythia-70m-deduped      EleutherAI/pythia-70m-deduped       qwen3-0.6b      Qwen/Qwen3-0.6B

TransformerLens takes names of the hub as well, except for GPT-2, which it calls by its older one.
Source: TransformerLens 3.9, ``supported_models.py``.
"""

from __future__ import annotations

import re

RULES = (
    (r"gpt2(?:-small)?", "openai-community/gpt2"),
    (r"(gpt2-(?:medium|large|xl))", r"openai-community/\1"),
    (r"(pythia-\d.*)", r"EleutherAI/\1"),
    (r"(gpt-neo-\d.*)", r"EleutherAI/\1"),
    (r"(gemma-(?:[23]-)?\d+[bm].*)", r"google/\1"),
    (r"llama-(3(?:\.\d)?)-(\d+)b(-instruct)?", r"meta-llama/Llama-\1-\2B\3"),
    (r"mistral-7b", "mistralai/Mistral-7B-v0.1"),
    (r"mistral-7b-instruct", "mistralai/Mistral-7B-Instruct-v0.1"),
    (r"(phi-[124](?:_5)?)", r"microsoft/\1"),
)


def hub_model(name: str) -> str:
    """The hub's name of a model; as it is given where no other is known."""
    said = name.removeprefix("https://huggingface.co/")
    if said in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"):
        return f"openai-community/{said}"
    if "/" in said:
        return said
    if found := re.fullmatch(r"qwen(1\.5|2|2\.5|3)-([\d.]+)b(-.+)?", said, re.IGNORECASE):
        suffix = "".join(f"-{part.capitalize()}" for part in (found[3] or "").split("-") if part)
        return f"Qwen/Qwen{found[1]}-{found[2]}B{suffix}"
    for pattern, template in RULES:
        if found := re.fullmatch(pattern, said, re.IGNORECASE):
            return found.expand(template).replace("-instruct", "-Instruct")
    return said


def lens_model(name: str) -> str:
    """What TransformerLens takes for a model of the hub."""
    return name.removeprefix("openai-community/")
