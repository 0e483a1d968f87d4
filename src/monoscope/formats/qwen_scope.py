"""Qwen-Scope: TopK autoencoders of Qwen's residual streams, one ``layer{n}.sae.pt`` a layer, without a configuration.

    pre = x @ W_enc.T + b_enc      acts = relu of the k largest      recon = acts @ W_dec.T + b_dec

On disk ``W_enc [F, d]`` and ``W_dec [d, F]``: both transposed here, so a feature's direction is a column there. No
centering, no normalizer, no threshold. Model, number of features and k are in the name of the repository,
``Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50``, the layer, from 0, in that of the file; ``W80K`` is 80 * 1024. The site is
what the layer returns: at the last layer that is not ``hidden_states[-1]``. Position 0 was left out of training; sink
features fire there. The license restricts use.

Source: arXiv:2605.11887 and the model cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from monoscope.core.errors import MismatchError
from monoscope.formats.folder import Folder
from monoscope.formats.layout import Layout
from monoscope.formats.opened import About, Opened, check_tensors
from monoscope.formats.published import autoencoder, by_numbers, called, check_width, matrix, named, said, whole_number

FILE = r"(?:^|/)layer(\d+)\.sae\.pt$"
REPOSITORY = r"SAE-Res-([\w.-]+?)-W(\d+K)-L0_(\d+)"
MODELS = {
    "Qwen3-1.7B-Base": (28, 2048),
    "Qwen3-8B-Base": (36, 4096),
    "Qwen3.5-2B-Base": (24, 2048),
    "Qwen3.5-9B-Base": (32, 4096),
    "Qwen3.5-27B": (64, 5120),
    "Qwen3-30B-A3B-Base": (48, 2048),
    "Qwen3.5-35B-A3B-Base": (40, 2048),
}
"""Layers and width of the models there are sets of."""


class QwenScope(Layout):
    """Files called ``layer{n}.sae.pt``."""

    name: ClassVar[str] = "qwen_scope"
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"k": (), "model": ()}

    def evidence(self, folder: Folder) -> str | None:
        """A file has such a name."""
        entries = self.entries(folder)
        return entries[0].rpartition("/")[2] if entries else None

    def entries(self, folder: Folder) -> list[str]:
        """One for each layer."""
        return sorted((name for name in folder.names() if named(FILE, name)), key=by_numbers)

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """One layer's autoencoder."""
        choices = choices or {}
        where, text = folder.where(entry), called(folder, entry)
        repository, layer = named(REPOSITORY, text), named(FILE, entry)
        assert layer is not None
        k, _ = said(choices, "k", repository and repository[3], f"{where} does not hold k, and no name says it")
        model = choices.get("model", repository and f"Qwen/{repository[1]}")
        found = folder.tensors(entry)
        check_tensors(found, {"W_enc", "W_dec", "b_enc", "b_dec"}, set(), where)
        tensors = dict(found) | {name: matrix(found, name, where).t() for name in ("W_enc", "W_dec")}
        n_features, d = found["W_enc"].shape
        if repository:
            check_width(n_features, repository[2], lambda n, width: n == int(width[:-1]) * 1024, where)
        warnings = ["the license of Qwen-Scope restricts its use; read it, and do not pass the weights on"]
        known = MODELS.get((model or "").removeprefix("Qwen/"))
        if known is not None:
            _check_model(int(layer[1]), d, known, str(model), where)
        elif model is not None:
            warnings.append(f"{model} is not a model there is a known set of: its layers and width were not compared")
        about = About(
            where=folder.name,
            entry=entry,
            files=(entry,),
            model=model,
            library="Qwen-Scope",
            skip_first=1,
            published={"l0": float(whole_number(k, "k"))},
            license="restricted use, see the model card",
            origins={
                "k": "choice" if "k" in choices else "the name of the repository",
                "model": "choice" if "model" in choices else "the name of the repository",
                "reads": "the name of the file",
            },
            inferred=("not centered, TopK then ReLU, at what the layer returns: the set's description",),
            warnings=tuple(warnings),
            chosen=dict(choices),
        )
        site = f"{int(layer[1])}.resid_post"
        function = {"kind": "topk", "k": whole_number(k, "k")}
        return autoencoder(self.name, (site, site), tensors, function, about, where=where)


def _check_model(layer: int, d: int, known: tuple[int, int], model: str, where: str) -> None:
    """Raises MismatchError where the model has not such a layer, or another width."""
    n_layers, width = known
    if layer >= n_layers:
        raise MismatchError(f"{where} is of layer {layer}, and {model} has layers 0..{n_layers - 1}")
    if d != width:
        raise MismatchError(f"{where} reads {d} numbers, and the stream of {model} has {width}")
