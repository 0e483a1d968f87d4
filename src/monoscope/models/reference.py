"""The page docs/reference/sites.md, from the tables of the families.

python -m monoscope.models.reference      # writes it
"""

from __future__ import annotations

import re
from pathlib import Path

from monoscope.core.io import write_text
from monoscope.core.site import LAYER_KINDS
from monoscope.models import families
from monoscope.models.families import FAMILIES, At, Family

PAGE = Path("docs/reference/sites.md")

# Tables that a family's config chooses instead of the one under its model type.
CHOSEN = {
    "gpt_neox (use_parallel_residual = false)": families.GPT_NEOX_SEQUENTIAL,
    "opt (do_layer_norm_before = false)": families.OPT_POST_NORM,
    "dinov2 (use_swiglu_ffn = true)": families.DINOV2_GATED,
}

HEAD = """\
# Sites

<!-- Written by `python -m monoscope.models.reference` from src/monoscope/models/families.py. -->

A site is a place in a model where activations are read or edited. It is written `2.resid_post` (layer 2), `embed` or
`logits` (outside the layers), `encoder.2.resid_post` (one stack of an encoder-decoder), or `model.layers.2.mlp:out`
(any module's input or output, in any model). TransformerLens names such as `blocks.2.hook_resid_post` are understood.
Where several models are read on the same tokens, a label tells which: `2.resid_post@base`.
"""

WHERE = """\
## Where they are

Module paths are inside a block, `block` is the block itself; `in` is a module's input and `out` its output (the first
one, if it has several). A site exists in a block where its module exists: a mixture-of-experts block has no `mlp_act`.
An edit of `resid_mid` changes the stream itself, for the MLP and for what the block adds to. Where queries, keys and
values share one projection, `q`, `k` and `v` are its thirds, or the thirds of every head's share; an edit writes its
third back.
"""


def rendered() -> str:
    """The page, in Markdown."""
    return "\n".join([HEAD, _meanings(), WHERE, *(_section(names, family) for names, family in _families())])


def _meanings() -> str:
    """The lists in the docstring of the tables, as they stand there."""
    doc = families.__doc__ or ""
    kinds, orders = doc.split("The order of a block says which identities hold:")
    rows = re.findall(r"^    (\S[\w, ]*?)  +(.+(?:\n {19}.+)*)", kinds, re.MULTILINE)
    lines = ["## What they are", "", "| kind | what it is |", "|---|---|"]
    lines += [f"| {_code(name)} | {_joined(text)} |" for name, text in rows]
    lines += ["", "Which identities hold depends on the order of a block:", "", "| order | identities |", "|---|---|"]
    rows = re.findall(r"^    (\w+)  +(.+(?:\n {19}.+)*)", orders, re.MULTILINE)
    lines += [f"| {_code(name)} | {_joined(text)} |" for name, text in rows]
    return "\n".join([*lines, ""])


def _families() -> list[tuple[str, Family]]:
    """Every table once, under all the model types that use it."""
    by_table: list[tuple[list[str], Family]] = []
    for name, family in (FAMILIES | CHOSEN).items():
        for names, known in by_table:
            if known is family:
                names.append(name)
                break
        else:
            by_table.append(([name], family))
    return [(", ".join(names), family) for names, family in by_table]


def _section(names: str, family: Family) -> str:
    lines = [f"### {names}", "", f"Order: {_code(family.order)}. Blocks, from the base model: "]
    lines[-1] += ", ".join(f"{_code(path)}" + (f" ({stack})" if stack else "") for stack, path in family.blocks.items())
    lines[-1] += f". Final norm: {_code(family.norm) if family.norm else 'none'}."
    lines += ["", "| site | module |", "|---|---|"]
    lines += [f"| {_code(kind)} | {_where(kind, family.sites[kind])} |" for kind in LAYER_KINDS if kind in family.sites]
    embed = ", ".join(f"{_code(path)} out" + (f" ({stack})" if stack else "") for stack, path in family.embed.items())
    if family.project_in is not None:
        embed = f"{_code(family.project_in)} out, in models that have it; otherwise {embed}"
    return "\n".join([*lines, f"| {_code('embed')} | {embed} |", ""])


def _where(kind: str, at: At) -> str:
    where = f"{_code(at.path or 'block')} {at.port}"
    if kind == "pattern":
        where += ", its second entry"
    return where + {"": "", "thirds": ", one third", "per_head": ", one third of each head"}[at.fused]


def _code(text: str) -> str:
    return ", ".join(f"`{word}`" for word in text.split(", "))


def _joined(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    write_text(PAGE, rendered())
