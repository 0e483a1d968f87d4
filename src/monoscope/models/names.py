"""Names other libraries give to sites, in both directions: the same tensor, or a reason why there is none.

blocks.12.hook_resid_post                TransformerLens, with circuit-tracer's mlp.hook_in and mlp.hook_out
model.layers.12.mlp.output               a module's input or output: nnsight, Gemma Scope 2
layers.12.mlp, transformer.h[3].attn     a module alone, from wherever its path starts: sparsify, delphi; its output
hidden_states[13]                        transformers' list: the embeddings, what each layer returns, and at the end
                                         not what the last layer returns but that after the final norm

Which tensor a name means depends on the family. A translation names the tensor the other library means, as a site if
there is one and as a module's output if not, and says in words where that is not what one would expect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from transformers import PreTrainedConfig

from monoscope.core.errors import SiteError, nearest
from monoscope.core.site import TRANSFORMER_LENS, Site
from monoscope.models.families import FAMILIES, family_of
from monoscope.models.family import At, Family

PORTS = {"input": "in", "inputs": "in", "output": "out", "in": "in", "out": "out"}
STREAM_BEFORE_NORM = ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in")
LENS_NAMES = {kind: name for name, kind in TRANSFORMER_LENS.items() if name not in STREAM_BEFORE_NORM}
LENS_NAMES |= {"mlp_out": "hook_mlp_out"}

MODEL_NAMES = (
    (r"gemma-2-", "gemma2"),
    (r"gemma-3-(v3-)?(270m|1b)", "gemma3_text"),
    (r"gemma-3-", "gemma3"),
    (r"r1-distill-llama", "llama"),
    (r"r1-distill-qwen", "qwen2"),
    (r"qwen-?2(\.5)?(-|$)", "qwen2"),
    (r"qwen-?3-.*a\d+b", "qwen3_moe"),
    (r"qwen-?3-", "qwen3"),
    (r"llama|smollm2?-", "llama"),
    (r"smollm3", "smollm3"),
    (r"mistral", "mistral"),
    (r"pythia|gpt-neox", "gpt_neox"),
    (r"gpt-?2", "gpt2"),
    (r"olmo-2", "olmo2"),
    (r"olmo-3", "olmo3"),
    (r"phi-(1|2)", "phi"),
    (r"^opt-", "opt"),
    (r"^bert-", "bert"),
)
"""What the last part of a model's name says of its family, first match; only read where there is no model or config."""

Known = Family | PreTrainedConfig | str | None
"""What is known of a model: its table, its config, its name, or nothing."""


@dataclass(frozen=True)
class Translated:
    """The site of a foreign name; ``notes`` say in words what the other library means where it may surprise."""

    site: Site
    notes: tuple[str, ...] = ()


def is_foreign(name: str) -> bool:
    """Whether a name is written as other libraries write them."""
    return bool(re.match(r"blocks\.\d|hidden_states\b|hook_|ln_final\b", name) or re.search(r"\[|\.(in|out)put", name))


def family_named(model: str) -> str | None:
    """Model type of a model's name (an id, or TransformerLens' name); None where the name does not tell."""
    last = model.rstrip("/").rsplit("/", 1)[-1].lower().replace("_", "-")
    return next((family for pattern, family in MODEL_NAMES if re.search(pattern, last)), None)


def translate(name: str, model: Known = None, *, port: str = "out", n_layers: int | None = None) -> Translated:
    """The site that another library's name means in a model.

    model: its family, config or name; without one, only what is the same in all families has a site of its own
    port: "in" or "out", for module paths that do not say which
    n_layers: of the model, for ``hidden_states[i]``

    Raises SiteError for a name that means no tensor that can be read.
    """
    family = _family(model)
    if found := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        return _from_lens(int(found[1]), found[2], family)
    if name == "ln_final.hook_normalized":
        raise SiteError(f"{name} is the last stream after the final norm but before its gain; no site is there")
    if name == "hook_embed":
        return Translated(Site(None, "embed"))
    if found := re.fullmatch(r"hidden_states(?:\[(-?\d+)\]|\.(\d+))", name):
        return _from_hidden_states(int(found[1] or found[2]), family, n_layers)
    if name in ("output.logits", "logits.output"):
        return Translated(Site(None, "logits"))
    if "@" in name or re.fullmatch(r"((en|de)coder\.)?(\d+\.\w+|embed|logits)", name):
        return Translated(Site.parse(name))  # a name of ours
    path, said = _path_and_port(name)
    if not re.fullmatch(r"\w+(\.\w+)*", path):
        raise SiteError(f"cannot read {name!r} as the name of a site or a module")
    return _from_module(path, said or port, family)


def lens_name(site: Site | str, model: Known = None) -> str:
    """TransformerLens' (or circuit-tracer's) name of a site. Raises SiteError where it has none, and says what is near.

    ``mlp_in`` becomes circuit-tracer's ``mlp.hook_in``.
    """
    site, family = Site.parse(site), _family(model)
    if site.stack:
        raise SiteError(f"TransformerLens has no name for {site}: its names know one stack of layers")
    if site.kind == "embed":
        return "hook_embed"
    if site.module is not None:
        return _lens_name_of_module(site, family)
    if site.kind == "logits":
        raise SiteError("TransformerLens has no name for the logits; its model returns them")
    if site.kind == "attn_in":
        raise SiteError(
            f"TransformerLens has no name for {site}, what the norm yields with its gain; blocks.{site.layer}.ln1."
            "hook_normalized is that before the gain"
        )
    foreign = {} if family is None else family.lens
    here = None if family is None or site.kind == "pattern" else family.sites.get(site.kind)
    if meant := next((name for name, at in foreign.items() if at == here), ""):
        return f"blocks.{site.layer}.{meant}"
    name = LENS_NAMES[site.kind]
    if name in foreign:
        raise SiteError(
            f"TransformerLens has no name for {site} in this family: its blocks.{site.layer}.{name} is "
            f"{_spelled(foreign[name])} of the block"
        )
    return f"blocks.{site.layer}.{name}"


def module_name(site: Site | str, model: Known) -> str:
    """Path of the module that has a site's tensor, as ``model.layers.12.mlp.output`` (nnsight; Gemma Scope 2).

    Raises SiteError for a site that is not all of a module's input or output, or a model whose family is not known.
    """
    site, family = Site.parse(site), _family(model)
    if site.module is not None:
        return f"{site.module}.{site.kind}put"
    if family is None:
        raise SiteError(f"no table of sites is known for this model, so {site} has no module; name its family")
    if site.kind == "logits":
        return "output.logits"
    if site.stack not in family.blocks:
        raise SiteError(f"{site} names no stack of this family; it has {', '.join(map(repr, family.blocks))}")
    if site.layer is None and family.project_in is not None:
        raise SiteError(f"no module yields {site} in all models of this family: {family.project_in} where there is one")
    if site.layer is None:
        return f"{family.base}.{family.embed[site.stack]}.output"
    at = family.sites.get(site.kind)
    if at is None:
        raise SiteError(f"this family has no {site.kind}; {nearest(site.kind, family.sites)}")
    path = ".".join(part for part in (family.base, family.blocks[site.stack], str(site.layer), at.path) if part)
    if at.normalized:
        raise SiteError(f"no module yields {site}; it is what {path} makes of its input before its gain")
    if at.fused:
        share = "a third" if at.fused == "thirds" else "a third of each head's share"
        raise SiteError(f"no module yields {site} alone; it is {share} of {path}.{at.port}put")
    return f"{path}.{at.port}put" + ("[1]" if site.kind == "pattern" else "")


def _family(model: Known) -> Family | None:
    if isinstance(model, str):
        return FAMILIES.get(family_named(model) or "")
    return family_of(model) if isinstance(model, PreTrainedConfig) else model


def _from_lens(layer: int, name: str, family: Family | None) -> Translated:
    if family is not None and name in family.lens:
        at = family.lens[name]
        if (kind := _kind_at(family, at.path, at.port)) is not None:
            return Translated(Site(layer, kind))
        site = _raw(family, "", layer, at.path, at.port)
        if name in TRANSFORMER_LENS:
            ours = Site(layer, TRANSFORMER_LENS[name])
            note = f"TransformerLens' {name} is {site} in this family: before the norm, so not {ours}"
            return Translated(site, (note,))
        return Translated(site)
    if name not in TRANSFORMER_LENS:
        raise SiteError(_no_site(layer, name))
    site = Site(layer, TRANSFORMER_LENS[name])
    notes: list[str] = []
    if name in STREAM_BEFORE_NORM:
        if site.kind == "resid_mid" and family is not None and family.order == "parallel":
            site = Site(layer, "resid_pre")
        read = "mlp_in" if name == "hook_mlp_in" else "attn_in"
        notes.append(f"TransformerLens' {name} is the stream before the norm, {site}, not {Site(layer, read)}")
    if name.endswith("hook_normalized") and family is not None:
        if site.kind not in family.sites:
            raise SiteError(f"blocks.{layer}.{name}: this family has no norm in front, so {site} does not exist")
        if family.centers:
            notes.append(
                f"{site} is before the norm's gain and bias; TransformerLens' {name} is too if it folded them into the "
                "next weights, as it does by default, and after them if it loaded the model without processing"
            )
    if name in ("attn.hook_z", "attn.hook_v") and family is not None and family.value_bias:
        notes.append(
            f"with TransformerLens' default processing, {name} lacks the bias of the values, which this family has: "
            f"a constant shift of {site}"
        )
    return Translated(site, tuple(notes))


def _no_site(layer: int, name: str) -> str:
    reasons = {
        "attn.hook_result": f"is what each head adds to the stream; the heads side by side are {layer}.z",
        "attn.hook_attn_scores": f"are scores before the softmax; {layer}.pattern is after it",
        "attn.hook_rot_q": f"is after the rotation of positions; {layer}.q is before it",
        "attn.hook_rot_k": f"is after the rotation of positions; {layer}.k is before it",
        "ln1.hook_scale": f"is the norm's divisor; {layer}.attn_normalized is the stream after it",
        "ln2.hook_scale": f"is the norm's divisor; {layer}.mlp_normalized is the stream after it",
    }
    if name in reasons:
        return f"no site is at blocks.{layer}.{name}, which {reasons[name]}"
    return f"unknown TransformerLens name 'blocks.{layer}.{name}'; {nearest(name, TRANSFORMER_LENS)}"


def _from_hidden_states(index: int, family: Family | None, n_layers: int | None) -> Translated:
    if index < 0 and n_layers is None:
        raise SiteError(f"hidden_states[{index}] counts from the end; say how many layers the model has")
    index += n_layers + 1 if index < 0 and n_layers is not None else 0
    if n_layers is not None and not 0 <= index <= n_layers:
        raise SiteError(f"no hidden_states[{index}]: a model of {n_layers} layers has 0..{n_layers}")
    if index == 0:
        return Translated(Site(0, "resid_pre"))
    if index == n_layers:
        after = f"{family.base}.{family.norm}" if family is not None and family.norm else "the final norm"
        if family is None or family.norm is None or family.order == "post_norm":
            return Translated(Site(index - 1, "resid_post"))
        note = f"hidden_states[{index}] is after {after}, not {Site(index - 1, 'resid_post')}"
        return Translated(Site(None, "out", module=after), (note,))
    notes = () if n_layers else (f"read as the output of layer {index - 1}; were that the last, it would be normed",)
    return Translated(Site(index - 1, "resid_post"), notes)


def _path_and_port(name: str) -> tuple[str, str]:
    """Path of a module and the port the name says, "" if none: brackets as dots, a tuple's first entry dropped."""
    if found := re.fullmatch(r"(.+):(in|out)", name):
        return found[1], found[2]
    plain = re.sub(r"\[(\d+)\]", r".\1", name.strip())
    plain = re.sub(r"((?:^|\.)(?:inputs?|output))(?:\.0)+$", r"\1", plain)
    path, _, end = plain.rpartition(".")
    return (path, PORTS[end]) if end in ("input", "inputs", "output") and path else (plain, "")


def _from_module(path: str, port: str, family: Family | None) -> Translated:
    if port not in ("in", "out"):
        raise SiteError(f"a module has an 'in' and an 'out', found {port!r}")
    if family is None:
        # What enters and leaves a block is the stream in every family.
        if found := re.fullmatch(r"(?:[a-z_]+\.)*(?:layers|h|layer|blocks)\.(\d+)", path):
            return Translated(Site(int(found[1]), "resid_pre" if port == "in" else "resid_post"))
        note = f"the model's family is not known, so {path} is read as the module of that path"
        return Translated(Site(None, port, module=path), (note,))
    bare = _bare(path, family)
    for stack, embed in family.embed.items():
        if bare == _bare(embed, family) and port == "out":
            return Translated(Site(None, "embed", stack))
    for stack, blocks in family.blocks.items():
        found = re.fullmatch(re.escape(_bare(blocks, family)) + r"\.(\d+)(?:\.(.+))?", bare)
        if found is None:
            continue
        layer, inner = int(found[1]), found[2] or ""
        if (kind := _kind_at(family, inner, port) or family.also.get(f"{inner}:{port}")) is not None:
            return Translated(Site(layer, kind, stack))
        return Translated(_raw(family, stack, layer, inner, port))
    if family.norm is not None and bare == _bare(family.norm, family) and port == "in":
        return Translated(Site(None, "in", module=f"{family.base}.{family.norm}"))
    return Translated(Site(None, port, module=path))


def _kind_at(family: Family, path: str, port: str) -> str | None:
    """The kind of site that is all of a module's input or output."""
    whole = {kind: at for kind, at in family.sites.items() if kind != "pattern" and not at.fused and not at.normalized}
    return next((kind for kind, at in whole.items() if at[:2] == (path, port)), None)


def _bare(path: str, family: Family) -> str:
    """A path without what stands before it by the kind of head, or in checkpoints that also read images."""
    prefixes = sorted({"model", "transformer", "language_model", family.base}, key=len, reverse=True)
    while prefix := next((p for p in prefixes if path.startswith(f"{p}.")), ""):
        path = path.removeprefix(f"{prefix}.")
    return path


def _raw(family: Family, stack: str, layer: int, inner: str, port: str) -> Site:
    blocks = next(path for name, path in family.blocks.items() if name == stack)
    parts = (family.base, blocks, str(layer), inner)
    return Site(None, port, module=".".join(part for part in parts if part))


def _lens_name_of_module(site: Site, family: Family | None) -> str:
    assert site.module is not None
    if family is not None:
        for blocks in family.blocks.values():
            found = re.fullmatch(re.escape(_bare(blocks, family)) + r"\.(\d+)\.(.+)", _bare(site.module, family))
            for name, at in family.lens.items() if found else ():
                if found and at[:2] == (found[2], site.kind):
                    return f"blocks.{found[1]}.{name}"
    raise SiteError(f"TransformerLens has no name for {site}")


def _spelled(at: At) -> str:
    return f"the {at.port}put of {at.path or 'all'}"
