"""The page docs/reference/formats.md: what is read and written, found out by asking every layout.

python -m monoscope.formats.reference      # writes it
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from monoscope.core.errors import CannotHold
from monoscope.core.io import write_text
from monoscope.core.site import Site
from monoscope.dictionaries import ActivationFunction, Dictionary, Wiring
from monoscope.formats.layout import Layout, Receipt
from monoscope.formats.layouts import LAYOUTS
from monoscope.formats.opened import About

PAGE = Path("docs/reference/formats.md")

WHAT: dict[str, tuple[str, str, str]] = {
    "native": ("monoscope", "`config.toml`, `weights.safetensors`", "[open], [dictionaries]"),
    "saelens": (
        "SAELens 6, its checkpoints too",
        "`cfg.json` of version 6, `sae_weights.safetensors`",
        "[golden], [interop]",
    ),
    "saelens_old": ("SAELens before 6", "the same of an older version, or none", "[golden]"),
    "sparsify": ("sparsify", "`cfg.json`, `sae.safetensors`", "[golden], [interop]"),
    "dictionary_learning": (
        "dictionary_learning, seven classes",
        "`config.json` with a `dict_class`, `ae.pt`",
        "[golden], [interop]",
    ),
    "llamascopium": (
        "llamascopium: SAE, transcoder, CLT, crosscoder, MOLT, Lorsa",
        "`config.json` with a `sae_type`",
        "[llamascopium], [circuits]",
    ),
    "circuit_tracer": (
        "circuit-tracer: transcoders of each layer, CLTs",
        "`config.yaml` with a `model_kind`, or `layer_*.safetensors`, `W_enc_*.safetensors`",
        "[circuit-tracer], [circuits]",
    ),
    "gemma_scope": ("Gemma Scope", "`params.npz`", "[published]"),
    "gemma_scope_2": ("Gemma Scope 2", "`params.safetensors` with lower-case names", "[published]"),
    "llama_scope": ("Llama Scope", "`hyperparams.json`, `checkpoints/final.safetensors`", "[published]"),
    "r1_distill": (
        "Llama Scope of R1-Distill",
        "`config.json`, `sae_weights.safetensors` with logarithms of thresholds",
        "[published]",
    ),
    "qwen_scope": ("Qwen-Scope", "`layer{n}.sae.pt`", "[published]"),
    "openai": ("OpenAI, GPT-2 small", "a pickle with `pre_bias` and `latent_bias`", "[published]"),
    "goodfire": ("Goodfire, Llama 3", "a pickle with `encoder_linear.weight`", "[published]"),
    "qresearch": ("qresearch, R1-Distill-Llama-8B", "a pickle of two linear layers", "[published]"),
    "attn_saes": ("attention of GPT-2 (Kissane, Krzyzanowski)", "`{x}.pt` and `{x}_cfg.json`", "[published]"),
    "temporal": ("temporal SAEs: recognized, and refused", "`conf.yaml`, `latest_ckpt.safetensors`", "[published]"),
    "delphi": (
        "delphi's latent cache: activations, for `formats.delphi.open_cache`; written by `formats.delphi_write`",
        "`{start}_{end}.safetensors` with `locations`",
        "[delphi]",
    ),
}
"""Of each layout: what it is, what tells it, and the tests it is held to."""

HEAD = """\
# Formats

<!-- Written by `python -m monoscope.formats.reference`, which asks every layout. -->

`monoscope info REF` says what is in a directory, a file or a repository of the hub, of any layout below, without
reading its weights; `monoscope.load(REF)` gives the dictionary; `monoscope convert SRC DST --to LAYOUT` writes it for
another tool, reads it back, and leaves a receipt of what was transposed, folded and dropped. Exactly one layout must
recognize the files; `--format` names it where they do not tell. A file is refused, by name, if it holds a tensor or a
setting for which no rule is known. Pickles are opened for tensors and plain values alone.

Features and reconstructions are those that the library's own code computes: golden files, written and computed by each
library that can be installed, agree to 1e-5 with the same features active. `make interop` builds those libraries'
environments and lets them compute from what is written here.
"""

RULES = """\
## Rules that files leave open

What no file says is a choice, named in `info` with the value taken: `--choose centering=yes`, or `open(ref,
centering="yes")`. Activations of the model settle it, where there are some: the rule that leaves less unexplained.
"""

WRITTEN = """\
## What each layout can say

A cell says how a dictionary is written; empty: it is refused, with the reason and what comes nearest.

- **yes**: as it is
- **frozen**: as the function that inference uses; batch_topk becomes jumprelu with its running threshold
- **th / n**: thresholds divided by decoder norms, where the layout compares no scaled scores
- **norms**: decoder norms folded into the encoder; activations become that many times what they were
- **bias**: the encoder's bias takes over, or gives up, the centering
- **mean**: the mean taken off every token is folded into the encoder
- **sites**: the layout has no word for these sites, so that whoever reads the files has to know them

Outside of monoscope's own files the activation scale is lost, unless the receipt says otherwise: activations stay in
the units of training. circuit-tracer wants the dictionaries of all layers together: `monoscope.formats.convert_set`.
"""

LINKS = """\
[open]: ../../tests/unit/formats/test_formats_open.py
[dictionaries]: ../../tests/conformance/test_dictionaries.py
[golden]: ../../tests/unit/formats/test_formats_golden.py
[interop]: ../../tests/interop/test_interop.py
[llamascopium]: ../../tests/unit/formats/test_formats_llamascopium.py
[circuit-tracer]: ../../tests/unit/formats/test_formats_circuit_tracer.py
[circuits]: ../../tests/interop/test_interop_circuits.py
[delphi]: ../../tests/unit/formats/test_formats_delphi.py
[published]: ../../tests/unit/formats/test_formats_published.py
"""

RESID, MLP_IN, MLP_OUT = Site(0, "resid_post"), Site(0, "mlp_in"), Site(0, "mlp_out")
ATTN_IN, ATTN_OUT = Site(0, "attn_normalized"), Site(0, "attn_out")
MLPS = tuple(Site(layer, "mlp_in") for layer in range(2)), tuple(Site(layer, "mlp_out") for layer in range(2))
WIDTH, FEATURES = 4, 8
FUNCTIONS: dict[str, dict[str, Any]] = {
    "relu": {"kind": "relu"},
    "topk": {"kind": "topk", "k": 2},
    "topk without its ReLU": {"kind": "topk", "k": 2, "relu": False},
    "batch_topk": {"kind": "batch_topk", "k": 2},
    "jumprelu": {"kind": "jumprelu"},
    "gated": {"kind": "gated"},
    "group_max": {"kind": "group_max", "k": 2},
    "abs_topk": {"kind": "abs_topk", "k": 2},
}
SHORT = {
    "decoder norms folded": "norms",
    "divided by the decoder norm": "th / n",
    "frozen as": "frozen",
    "turned into the jumprelu": "frozen",
    "centering folded": "bias",
    "bias adjusted": "bias",
    "mean taken off every token folded": "mean",
}
"""What a step in a receipt is called in a cell."""


def cases() -> Iterator[tuple[str, Dictionary]]:
    """Dictionaries that layouts are asked to write, by what the table calls them."""
    sae, transcoder = ((RESID,), (RESID,)), ((MLP_IN,), (MLP_OUT,))
    for name, function in FUNCTIONS.items():
        yield f"{name}", _made(function, sae, center=True)
    for name in ("relu", "topk", "batch_topk", "jumprelu"):
        yield f"{name}, not centered", _made(FUNCTIONS[name], sae, center=False)
    for name in ("topk", "batch_topk", "jumprelu"):
        yield f"{name}, scaled scores", _made(FUNCTIONS[name], sae, center=True, scale_by_decoder_norm=True)
    for name in ("layer_norm", "token_norm", "center"):
        yield f"relu, normalizer {name}", _made(FUNCTIONS["relu"], sae, center=True, normalizer=name)
    yield "relu, with a gated linear unit", _made(FUNCTIONS["relu"], sae, center=True, glu=True)
    for name in ("relu", "topk", "batch_topk", "jumprelu", "gated", "group_max", "abs_topk"):
        yield f"transcoder, {name}", _made(FUNCTIONS[name], transcoder)
    for name in ("relu", "topk", "jumprelu"):
        yield f"transcoder with a skip, {name}", _made(FUNCTIONS[name], transcoder, skip=True)
    for name in ("topk", "jumprelu"):
        yield f"cross-layer transcoder, {name}", _made(FUNCTIONS[name], MLPS, kind="cross_layer", n_features=FEATURES)
    both = (RESID, Site(1, "resid_post"))
    layers = both, both
    yield "crosscoder, jumprelu", _made(FUNCTIONS["jumprelu"], layers, kind="crosscoder")
    yield (
        "crosscoder with a gate for each site, jumprelu",
        _made(FUNCTIONS["jumprelu"], layers, kind="crosscoder", gate="per_site"),
    )
    yield "MOLT, jumprelu", _made(FUNCTIONS["jumprelu"], transcoder, kind="molt", groups=1, rank=2)
    heads = {"d_head": 2, "scale": 1.5}
    attention = ((ATTN_IN,), (ATTN_OUT,))
    yield "Lorsa, topk", _made(FUNCTIONS["topk"], attention, kind="lorsa", n_heads=2, attention=heads)
    positive = {"kind": "pursuit", "k": 2, "positive": True}
    yield "matching pursuit, positive", _made(positive, sae, kind="matching_pursuit")
    yield "matching pursuit, signed", _made({"kind": "pursuit", "k": 2}, sae, kind="matching_pursuit")


def _made(function: dict[str, Any], sites: tuple[tuple[Site, ...], tuple[Site, ...]], **wiring: Any) -> Dictionary:
    kind = {"kind": "autoencoder", "n_features": FEATURES, **({} if "kind" in wiring else {"unit_norm": False})}
    reads, writes = sites
    chosen = ActivationFunction.Config.from_dict(function)
    widths = dict.fromkeys({*reads, *writes}, WIDTH)
    dictionary = Wiring.from_dict(kind | wiring).build(chosen, reads, writes, widths)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in dictionary.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    return dictionary.eval().requires_grad_(False)


def cell(layout: Layout, dictionary: Dictionary) -> str:
    """How a layout writes a dictionary, in a word or two; empty where it refuses."""
    about = About(model="meta-llama/Llama-3.2-1B", prepend_bos=True, context_length=128)
    with tempfile.TemporaryDirectory() as directory:
        try:
            receipt = layout.write(dictionary, Path(directory), about)
        except CannotHold:
            return ""
    return ", ".join(_words(receipt)) or "yes"


def _words(receipt: Receipt) -> list[str]:
    said = [short for long, short in SHORT.items() if any(long in step for step in receipt.steps)]
    if any("hook_name" in lost or "at its site" in lost for lost in receipt.lost):
        said.append("sites")
    return list(dict.fromkeys(said))


def rendered() -> str:
    """The page."""
    rows = ["| layout | what it is | what tells it | written | held to |", "|---|---|---|---|---|"]
    open_rules = ["| layout | rule | values, the likeliest first |", "|---|---|---|"]
    for layout in LAYOUTS:
        what, files, tests = WHAT[layout.name]
        rows.append(f"| `{layout.name}` | {what} | {files} | {'yes' if layout.is_written else ''} | {tests} |")
        for rule, values in layout.choices.items():
            words = ", ".join(f"`{value}`" for value in values) or "any text"
            open_rules.append(f"| `{layout.name}` | `{rule}` | {words} |")
    written = [layout for layout in LAYOUTS if layout.is_written and layout.name != "native"]
    table = [
        f"| dictionary | {' | '.join(layout.name for layout in written)} |",
        "|---" * (1 + len(written)) + "|",
        *(f"| {name} | {' | '.join(cell(layout, made) for layout in written)} |" for name, made in cases()),
    ]
    parts = (HEAD, "## Layouts", "\n".join(rows), RULES, "\n".join(open_rules), WRITTEN, "\n".join(table), LINKS)
    return "\n\n".join(part.strip() for part in parts) + "\n"


if __name__ == "__main__":
    write_text(PAGE, rendered())
