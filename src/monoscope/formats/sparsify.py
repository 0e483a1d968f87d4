"""sparsify (EleutherAI): ``cfg.json`` and ``sae.safetensors`` in a directory that is named after the module.

    z = x - b_dec, or x if transcode        pre = max(z @ encoder.weight.T + encoder.bias, 0)
    acts = the k largest pre (topk), or the largest of each of k consecutive groups (groupmax)
    recon = acts @ W_dec + b_dec (+ x @ W_skip.T)

encoder.weight [F, d], encoder.bias [F], W_dec [F, d] as it is, b_dec [d], W_skip [d, d]. F is num_latents, or
``d_in * expansion_factor`` where that is 0. The site is in no file: a directory is called ``layers.10`` for the output
of that module, counted from the base model, or with transcode for its input and output. A run has one directory a site,
below ``seed0`` and so on where it has several seeds.

Traps. Transcoders trained before 2025-02-12 did subtract b_dec from their input, and no file tells: ``centering="yes"``
reads one that way. W_skip may be there without transcode. ``layers.10`` is what a block returns, ``layers.10.mlp`` what
the MLP does: fed the residual stream, the latter reconstructs at an FVU of 1.5 to 2.1, without an error. On models with
a norm behind the MLP it is what enters that norm. ``signed`` selected by magnitude once, and is refused. multi_topk is
a term of the loss; sparsify's own ``forward`` then returns what 4k features reconstruct, its ``encode`` still k.

Source: sparsify 1.3, ``sparse_coder.py``, ``fused_encoder.py``; its pull request 49. Shapes: d width, F features.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from monoscope.core.errors import CannotHold, DataError, SiteError
from monoscope.core.io import write_text
from monoscope.core.site import Site
from monoscope.core.tensors import write_tensors
from monoscope.dictionaries import Dictionary
from monoscope.formats.folder import Folder
from monoscope.formats.foreign_sites import model_of, site_named
from monoscope.formats.layout import Layout, Receipt
from monoscope.formats.opened import About, Opened, check_keys, check_shape, check_tensors
from monoscope.formats.plain import plain
from monoscope.models.names import module_name

CONFIG, WEIGHTS, RUN = "cfg.json", "sae.safetensors", "config.json"
NEEDED, OPTIONAL = {"encoder.weight", "encoder.bias", "W_dec", "b_dec"}, {"W_skip"}
DEFAULTS: dict[str, Any] = {"activation": "topk", "transcode": False, "skip_connection": False}
KNOWN = {*DEFAULTS, "expansion_factor", "normalize_decoder", "num_latents", "k", "multi_topk", "d_in", "signed"}
FUNCTIONS = {"topk": "topk", "groupmax": "group_max"}
OURS = r"((en|de)coder\.)?\d+\.[a-z]\w*(--((en|de)coder\.)?\d+\.[a-z]\w*)?"
"""Names of directories that are sites of ours, of which no module has the name."""


class Sparsify(Layout):
    """A directory of sparsify, or a run of them."""

    name: ClassVar[str] = "sparsify"
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"centering": ("no", "yes"), "site": (), "model": ()}

    def evidence(self, folder: Folder) -> str | None:
        """Its two files."""
        return f"{CONFIG} and {WEIGHTS}" if self.entries(folder) else None

    def entries(self, folder: Folder) -> list[str]:
        """The directory itself, or those of a run."""
        names = set(folder.names())
        if CONFIG in names and WEIGHTS in names:
            return [""]
        found = (name.removesuffix("/" + CONFIG) for name in names if name.endswith("/" + CONFIG))
        return sorted(entry for entry in found if f"{entry}/{WEIGHTS}" in names)

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """One dictionary. ``centering`` says whether a transcoder subtracts b_dec; ``site`` and ``model``
        what no name does."""
        chosen = dict(choices or {})
        prefix = f"{entry}/" if entry else ""
        where, weights = folder.where(prefix + CONFIG), folder.where(prefix + WEIGHTS)
        config, inferred = folder.json(prefix + CONFIG), []
        check_keys(config, KNOWN, where)
        for key, value in DEFAULTS.items():
            if key not in config:
                inferred.append(f"{key} is not in {CONFIG}, and so {str(value).lower()}")
        config = DEFAULTS | config
        if config["activation"] not in FUNCTIONS or config.get("signed"):
            raise DataError(
                f"{where}: activation is {config['activation']!r}, signed {config.get('signed', False)}; read are "
                f"{' and '.join(FUNCTIONS)}, unsigned"
            )
        d, k = _whole(config, "d_in", where), _whole(config, "k", where)
        n_features = config.get("num_latents") or d * _whole(config, "expansion_factor", where)
        tensors = folder.tensors(prefix + WEIGHTS)
        check_tensors(tensors, NEEDED | (OPTIONAL if config["skip_connection"] else set()), set(), weights)
        shapes = {"encoder.weight": (n_features, d), "encoder.bias": (n_features,), "W_dec": (n_features, d)}
        for name, shape in (shapes | {"b_dec": (d,), "W_skip": (d, d)}).items():
            if name in tensors:
                check_shape(tensors[name], shape, name, weights)
        transcode = bool(config["transcode"])
        model = chosen.get("model") or self._model(folder)
        reads, writes, notes, hookpoint = self._sites(folder, entry, chosen, transcode, model)
        parts = {
            "W_enc": tensors["encoder.weight"].t(),
            "b_enc": tensors["encoder.bias"],
            "W_dec": tensors["W_dec"],
            "b_dec": tensors["b_dec"],
        }
        if config["skip_connection"]:
            parts["W_skip"] = tensors["W_skip"].t()
        said = "centering" in chosen
        if not transcode:
            chosen.pop("centering", None)  # an SAE's is known
        elif chosen.setdefault("centering", "no") == "yes":
            encoder, bias = parts["W_enc"], parts["b_dec"]
            shift = encoder.map(lambda whole: -(bias.read().float() @ whole.float()), (n_features,), torch.float32)
            parts["b_enc"] = parts["b_enc"].shifted_by(shift)
        if transcode and not said:
            notes += (
                "a transcoder from before 2025-02-12 subtracts b_dec from what it reads, which no file says: if FVU is "
                "absurd, read it with centering = 'yes'",
            )
            inferred.append("this transcoder does not subtract b_dec from what it reads")
        table = {
            "reads": [str(reads)],
            "writes": [str(writes)],
            "widths": {str(reads): d, str(writes): d},
            "wiring": {
                "kind": "autoencoder",
                "n_features": n_features,
                "center": not transcode,
                "unit_norm": False,
                "skip": bool(config["skip_connection"]),
            },
            "function": {"kind": FUNCTIONS[config["activation"]], "k": k},
            "acts_scale": 1.0,
        }
        about = About(
            where=folder.name,
            entry=entry,
            files=(prefix + CONFIG, prefix + WEIGHTS),
            model=model,
            library="sparsify",
            origins={"reads": "the choice of a site" if "site" in chosen else f"the name {hookpoint}"},
            inferred=tuple(inferred),
            warnings=notes,
            chosen=chosen,
        )
        return Opened(self.name, table, parts, about)

    def _sites(
        self, folder: Folder, entry: str, chosen: Mapping[str, str], transcode: bool, model: str | None
    ) -> tuple[Site, Site, tuple[str, ...], str]:
        """Where it reads and writes, by the name of its directory."""
        hookpoint = entry.rsplit("/", 1)[-1] or re.sub(r"@[^/]*$", "", folder.name.rstrip("/")).rsplit("/", 1)[-1]
        if "site" in chosen:
            read, _, written = chosen["site"].partition(" ")
            hookpoint = read
        elif re.fullmatch(OURS, hookpoint):
            read, _, written = hookpoint.partition("--")
        elif re.fullmatch(r"\w*[a-z]\w*(\.\w+)*\.\d+(\.\w+)*|embed_tokens|wte|embed_in", hookpoint):
            read, written = hookpoint, ""
        else:
            raise DataError(
                f"{folder.name} names no site: sparsify has it in the name of the directory, as in layers.10.mlp, and "
                f"this one is called {hookpoint!r}. Say where it reads with site = '10.resid_post', and for a "
                "transcoder where it writes behind a space"
            )
        where = folder.where(entry) if entry else folder.name
        reads, notes = site_named(read, model, where, port="in" if transcode else "out")
        writes, more = site_named(written or read, model, where) if transcode or written else (reads, ())
        return reads, writes, tuple(dict.fromkeys((*notes, *more))), hookpoint

    def _model(self, folder: Folder) -> str | None:
        """The model's name, where the configuration of the run says it."""
        said = folder.json(RUN).get("model") if folder.has(RUN) else None
        return said if isinstance(said, str) else None

    def write(self, dictionary: Dictionary, directory: Path, about: About) -> Receipt:
        """A directory that sparsify loads, inside of one that is named after the module."""
        auto = plain(dictionary, self.name)
        d = auto.W_enc.shape[0]
        if auto.W_dec.shape[1] != d:
            raise CannotHold(
                f"sparsify has one width, and this dictionary reads {d} and writes {auto.W_dec.shape[1]}",
                nearest=("saelens", "native"),
            )
        if auto.function not in ("topk", "group_max"):
            why = "no thresholds" if auto.function in ("jumprelu", "gated") else f"no function like {auto.function}"
            raise CannotHold(f"sparsify selects by topk or groupmax, and has {why}", nearest=("saelens", "native"))
        if auto.keeps_negative:
            raise CannotHold("sparsify has a ReLU behind its topk", nearest=("circuit_tracer", "native"))
        if auto.normalizer != "none":
            raise CannotHold(
                f"sparsify reads activations as they are, and this dictionary normalizes them ({auto.normalizer})",
                nearest=("saelens", "native"),
            )
        transcode = auto.reads != auto.writes
        if not transcode:
            auto.center()
        model = model_of(dictionary, about)
        hookpoint, lost = self._hookpoint(auto.reads, auto.writes, model)
        tensors = {
            "encoder.weight": auto.W_enc.T,
            "encoder.bias": auto.b_enc,
            "W_dec": auto.W_dec,
            "b_dec": auto.b_dec,
        }
        auto.steps.append("W_enc transposed")
        if auto.W_skip is not None:
            tensors["W_skip"] = auto.W_skip.T
            auto.steps.append("W_skip transposed")
        config = {
            "activation": "topk" if auto.function == "topk" else "groupmax",
            "expansion_factor": max(1, auto.n_features // d),
            "normalize_decoder": auto.has_unit_rows(),
            "num_latents": auto.n_features,
            "k": auto.k,
            "multi_topk": False,
            "skip_connection": auto.W_skip is not None,
            "transcode": transcode,
            "d_in": d,
        }
        place = directory / hookpoint
        place.mkdir()
        write_tensors(place / WEIGHTS, {name: tensor.contiguous() for name, tensor in tensors.items()})
        write_text(place / CONFIG, json.dumps(config, indent=1))
        files = [f"{hookpoint}/{name}" for name in (CONFIG, WEIGHTS)]
        if model is not None:
            write_text(directory / RUN, json.dumps({"model": model}))
            files.append(RUN)
        sites = str(auto.reads) + (f" {auto.writes}" if transcode else "")
        return Receipt(self.name, files, auto.steps, [*auto.lost, *lost], {} if hookpoint else {"site": sites})

    def _hookpoint(self, reads: Site, writes: Site, model: str | None) -> tuple[str, list[str]]:
        """The directory's name, if the sites are those of one module; else what is lost."""
        if model is None and reads == writes and reads.kind == "resid_post" and reads.module is None:
            return f"layers.{reads.layer}", ["what the model itself calls its blocks: layers is a guess"]
        ours = str(reads) if reads == writes else f"{reads}--{writes}"
        lost = (
            f"that sparsify could train or use it at its site: the directory has the site's name here, {ours}, since "
        )
        try:
            read, written = (module_name(site, model) for site in (reads, writes))
        except SiteError as error:
            return ours, [f"{lost}{error}"]
        module, port = read.removeprefix("model.").removeprefix("transformer.").removeprefix("gpt_neox.").rsplit(".", 1)
        if reads == writes and port == "output":
            return module, []
        if reads != writes and (read.rsplit(".", 1)[0], "output") == tuple(written.rsplit(".", 1)) and port == "input":
            return module, []
        of = f"what {reads} is" if reads == writes else f"{reads} and {writes} together"
        return ours, [f"{lost}no module has {of} for its output, or input and output"]


def _whole(config: Mapping[str, Any], key: str, where: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DataError(f"{where}: {key} is {value!r}, where a positive number is expected")
    return value
