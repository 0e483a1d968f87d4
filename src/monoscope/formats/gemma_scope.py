"""Gemma Scope (1): JumpReLU autoencoders and transcoders of Gemma 2, as ``params.npz``.

    acts = relu(pre) * 1[pre > threshold],   pre = x @ W_enc + b_enc         recon = acts @ W_dec + b_dec

No centering and no normalizer is left; decoder rows have norm 1. On disk as here: ``W_enc [d, F]`` and ``W_dec
[F, d_out]``, in fp32; some files have ``w_enc`` and ``w_dec``. What they read is in their names alone,
``gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82``:

    res            the stream after the layer         mlp           what the MLP adds, after the norm behind it
    att            z, the heads side by side          transcoders   from the stream before the gain of the MLP's norm
                                                                    (mlp_normalized) to mlp_out

Embedding autoencoders (``embedding/``) were trained on embeddings before the model multiplies them by sqrt(d):

    at embed, W_enc / sqrt(d), W_dec sqrt(d) and b_dec sqrt(d) say the same

Training left the first position, BOS, out.

Source: Lieberum et al. 2024 (arXiv:2408.05147); ``google/gemma-scope-{2b,9b,27b}-{pt,it}-{res,mlp,att}``,
``google/gemma-scope-2b-pt-transcoders``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from monoscope.core.errors import MismatchError
from monoscope.formats.folder import Folder
from monoscope.formats.layout import Layout
from monoscope.formats.lazy import Lazy
from monoscope.formats.opened import About, Opened, check_tensors
from monoscope.formats.published import (
    above_zero,
    autoencoder,
    called,
    check_width,
    directories_of,
    has_rounded,
    inside,
    matrix,
    named,
    said,
    whole_number,
)

FILE = "params.npz"
REPOSITORY = r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)"
SITES = {"res": "resid_post", "mlp": "mlp_out", "att": "z"}
WIDTHS = {"2b": (2304, 2048), "9b": (3584, 4096)}
"""Of the stream, and of the heads side by side."""


class GemmaScope(Layout):
    """Directories with ``params.npz``."""

    name: ClassVar[str] = "gemma_scope"
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"set": ("res", "mlp", "att", "transcoders"), "layer": ()}

    def evidence(self, folder: Folder) -> str | None:
        """The file is there."""
        return FILE if directories_of(folder, FILE) else None

    def entries(self, folder: Folder) -> list[str]:
        """One for each layer, width and sparsity."""
        return directories_of(folder, FILE)

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """One autoencoder or transcoder."""
        file = inside(entry, FILE)
        where, text = folder.where(file), called(folder, entry)
        repository = named(REPOSITORY, text)
        kind, chosen = said(choices, "set", repository and repository[3].lower(), f"no name says what {where} reads")
        embeds = named(r"(?:^|/)embedding(?:/|$)", text) is not None
        layer = None if embeds else named(r"layer_(\d+)", text)
        number = (
            "" if embeds else said(choices, "layer", layer and layer[1], f"no name says of which layer {where} is")[0]
        )

        found = folder.tensors(file)
        tensors = {{"w_enc": "W_enc", "w_dec": "W_dec"}.get(name, name): lazy for name, lazy in found.items()}
        check_tensors(tensors, {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}, set(), where)
        tensors["threshold"] = above_zero(tensors["threshold"])
        d, n_features = matrix(tensors, "W_enc", where).shape
        if width := named(r"width_(\d+[km])", text):
            check_width(n_features, width[1], has_rounded, where)
        if repository is not None and not chosen:
            _check_d(d, repository[1].lower(), kind, where)

        inferred = ["the first position was left out of training, and texts begin with BOS: the set's paper"]
        inferred += [] if chosen else [f"reads {kind}, by the name of the repository"]
        if embeds:
            sites, tensors = ("embed", "embed"), _scaled(tensors, d**0.5)
            inferred.append("trained on embeddings before they are multiplied by sqrt(d): folded into the weights")
        elif kind == "transcoders":
            layer_number = whole_number(number, "layer")
            sites = (f"{layer_number}.mlp_normalized", f"{layer_number}.mlp_out")
        else:
            site = f"{whole_number(number, 'layer')}.{SITES[kind]}"
            sites = (site, site)
        l0 = named(r"average_l0_(\d+)", text)
        about = About(
            where=folder.name,
            entry=entry,
            files=(file,),
            model=_model(repository[1], repository[2]) if repository else None,
            library="Gemma Scope",
            prepend_bos=True,
            skip_first=1,
            published={"l0": float(l0[1])} if l0 else {},
            origins={
                "reads": "choice" if chosen else "the name of the repository",
                "layer": "the name of the directory",
            },
            inferred=tuple(inferred),
            chosen=dict(choices or {}),
        )
        return autoencoder(self.name, sites, tensors, {"kind": "jumprelu"}, about, where=where)


def _model(size: str, tuning: str) -> str:
    return f"google/gemma-2-{size.lower()}" + ("-it" if tuning.lower() == "it" else "")


def _scaled(tensors: Mapping[str, Lazy], factor: float) -> dict[str, Lazy]:
    """At embeddings that the model has multiplied by a factor."""
    grown = {name: tensors[name].scaled(factor) for name in ("W_dec", "b_dec")}
    return {**tensors, **grown, "W_enc": tensors["W_enc"].scaled(1 / factor)}


def _check_d(d: int, size: str, kind: str, where: str) -> None:
    """Raises MismatchError where a file's width is not that of what its repository reads."""
    expected = WIDTHS.get(size, (d, d))[kind == "att"]
    if d != expected:
        raise MismatchError(f"{where} reads {d} numbers, and what {kind} of Gemma 2 {size} reads has {expected}")
