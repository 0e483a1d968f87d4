"""The page docs/reference/sites.md, from the tables of the families.

python -m monoscope.models.reference      # writes it
"""

from __future__ import annotations

import re
from pathlib import Path

from monoscope.core.io import write_text
from monoscope.core.site import LAYER_KINDS
from monoscope.models import families
from monoscope.models import family as tables
from monoscope.models.families import FAMILIES
from monoscope.models.family import At, Family
from monoscope.models.names import translate

PAGE = Path("docs/reference/sites.md")

# Tables that a family's config chooses instead of the one under its model type.
CHOSEN = {
    "gpt_neox (use_parallel_residual = false)": families.GPT_NEOX_SEQUENTIAL,
    "opt (do_layer_norm_before = false)": families.OPT_POST_NORM,
    "dinov2 (use_swiglu_ffn = true)": families.DINOV2_GATED,
}

HEAD = """\
# Sites

<!-- Written by `python -m monoscope.models.reference` from the tables in src/monoscope/models. -->

A site is a place in a model where activations are read or edited. It is written `2.resid_post` (layer 2), `embed` or
`logits` (outside the layers), `encoder.2.resid_post` (one stack of an encoder-decoder), or `model.layers.2.mlp:out`
(any module's input or output, in any model). Names of other libraries are [understood](#names-of-other-libraries).
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


NAMES = """\
## Names of other libraries

`lm.read(tokens, ["blocks.2.hook_resid_post", "model.layers.2.mlp.output"])` works as it stands: `lm.resolve` translates
names of TransformerLens and module paths as nnsight and Gemma Scope 2 write them, for the family of the model.
`monoscope.models.names` has both directions where there is no model: `translate(name, "google/gemma-2-2b")`,
`lens_name(site, ...)`, `module_name(site, ...)`. Each is the same tensor or an error with the reason; the `notes` of a
translation say where a name means something other than one would think:

- **`hook_attn_in`, `hook_mlp_in`** (and `hook_q_input`, ...) are the stream before the norm: `resid_pre`, and
  `resid_mid` or, in parallel blocks, `resid_pre`. What attention and MLP read is `attn_in` and `mlp_in`, after the norm
  with its gain; circuit-tracer calls the latter `mlp.hook_in`, and TransformerLens has no name for the former.
- **`ln1.hook_normalized`, `ln2.hook_normalized`** are `attn_normalized` and `mlp_normalized`: after the norm's division
  and before its gain, computed here in fp32 with the model's epsilon. They can be read, and an edit can look at them,
  but not change them. In layer-norm models TransformerLens means this only if it folded the norms, its default.
  `monoscope.formats.at_model.behind_gain` moves a dictionary that reads there to `mlp_in` or `attn_in`, exactly.
- **`hook_attn_out`, `hook_mlp_out`** are what the stream receives: in Gemma 2 and 3 after the norm behind each half.
  The module `mlp` itself (`mlp.hook_out`, sparsify's `layers.2.mlp`) is before that norm there. In OLMo 2 and 3
  TransformerLens reads both before the norm, so they are `self_attn:out` and `mlp:out`, not `attn_out` and `mlp_out`.
- **`attn.hook_z`** has the heads in an axis of their own; `z` has them side by side. With TransformerLens' default
  processing it lacks the bias of the values, a constant, where the family has one;
  `monoscope.formats.at_model.with_value_biases` makes a dictionary trained there one of `z`.
- **`hidden_states[i]`** is what layer i - 1 returns, but the last one is after the final norm.
- In BERT, `hook_resid_mid` and `hook_resid_post` are sums before the norm that follows; `resid_post` is after it,
  TransformerLens' `hook_normalized_resid_post`.
- Layer-norm models (column *centered* below): by default TransformerLens takes the mean from all that is written to
  the stream, so a dictionary trained on its residual streams has seen `x - mean(x)`.

Names within a block, by family; a name that is not a site is a module's input or output:
"""

COLUMNS = ("hook_resid_mid", "hook_mlp_in", "mlp.hook_in", "mlp.hook_out", "hook_attn_out", "hook_mlp_out")


def rendered() -> str:
    """The page, in Markdown."""
    sections = (_section(names, family) for names, family in _families())
    return "\n".join([HEAD, _meanings(), NAMES, _names(), WHERE, *sections])


def _names() -> str:
    """What TransformerLens' names that differ between families mean."""
    lines = ["| family | " + " | ".join(map(_code, COLUMNS)) + " | centered | bias of values |"]
    lines += ["|" + "---|" * (len(COLUMNS) + 3)]
    for names, family in _families():
        if len(family.blocks) > 1 or family.classifier or family.base == "vision_model":
            continue  # images and encoder-decoders are not in TransformerLens
        cells = [_meant(name, family) for name in COLUMNS]
        cells += ["yes" if family.centers else "no", "yes" if family.value_bias else "no"]
        lines += [f"| {names} | " + " | ".join(cells) + " |"]
    return "\n".join([*lines, ""])


def _meant(name: str, family: Family) -> str:
    site = translate(f"blocks.0.{name}", family).site
    if site.module is not None:
        inner = site.module.split(".0.", 1)[1]
        return _code(f"{inner}:{site.kind}")
    return _code(site.kind) if site.kind in family.sites else "-"


def _meanings() -> str:
    """The lists in the docstring of the tables, as they stand there."""
    doc = tables.__doc__ or ""
    kinds, orders = doc.split("The order of a block says which identities hold:")
    rows = re.findall(r"^    (\S[\w, ]*?)  +(.+(?:\n {21}.+)*)", kinds, re.MULTILINE)
    lines = ["## What they are", "", "| kind | what it is |", "|---|---|"]
    lines += [f"| {_code(name)} | {_joined(text)} |" for name, text in rows]
    lines += ["", "Which identities hold depends on the order of a block:", "", "| order | identities |", "|---|---|"]
    rows = re.findall(r"^    (\w+)  +(.+(?:\n {21}.+)*)", orders, re.MULTILINE)
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
    where += " before gain and bias" if at.normalized else ""
    return where + {"": "", "thirds": ", one third", "per_head": ", one third of each head"}[at.fused]


def _code(text: str) -> str:
    return ", ".join(f"`{word}`" for word in text.split(", "))


def _joined(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    write_text(PAGE, rendered())
