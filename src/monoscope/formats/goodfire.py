"""Goodfire's and qresearch's autoencoders of Llama 3: linear layers of torch in a pickle, and nothing else.

    pre = x @ encoder.weight.T + encoder.bias      acts = relu(pre)      recon = acts @ decoder.weight.T + decoder.bias

Goodfire calls the layers ``encoder_linear`` and ``decoder_linear``. No centering, the stream after the layer; model and
layer are in the name of the repository alone. Goodfire's were trained on conversations in the model's chat template.

Sources: ``Goodfire/Llama-3.3-70B-Instruct-SAE-l50``, ``Goodfire/Llama-3.1-8B-Instruct-SAE-l19``,
``qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from monoscope.core.errors import DataError, MismatchError
from monoscope.formats.folder import Folder
from monoscope.formats.layout import Layout
from monoscope.formats.lazy import Lazy
from monoscope.formats.opened import About, Opened, check_tensors
from monoscope.formats.published import autoencoder, called, matrix, named, said, whole_number

MOST_PICKLES = 4  # that are looked into for evidence
REPOSITORY = r"((?:Llama-3[\w.]*-\d+B|DeepSeek-R1-Distill-Llama-\d+B)[\w-]*?)-SAE-l(\d+)"
MODELS = {
    "llama-3.3-70b-instruct": ("meta-llama/Llama-3.3-70B-Instruct", 8192),
    "llama-3.1-8b-instruct": ("meta-llama/Llama-3.1-8B-Instruct", 4096),
    "deepseek-r1-distill-llama-8b": ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", 4096),
}


class Goodfire(Layout):
    """A pickle with ``encoder_linear.weight``."""

    name: ClassVar[str] = "goodfire"
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"layer": (), "model": ()}
    encoder, decoder, library = "encoder_linear", "decoder_linear", "Goodfire"

    def evidence(self, folder: Folder) -> str | None:
        """A pickle holds just those tensors."""
        few = self._pickles(folder)
        holds = len(few) <= MOST_PICKLES and any(self._holds(folder, name) for name in few)
        return f"a pickle with {self.encoder}.weight and nothing else" if holds else None

    def entries(self, folder: Folder) -> list[str]:
        """The pickles that hold them; where none does, all, for errors that say why."""
        few = self._pickles(folder)
        return [name for name in few if self._holds(folder, name)] or few

    def _pickles(self, folder: Folder) -> list[str]:
        return [name for name in folder.names() if name.endswith((".pt", ".pth"))]

    def _holds(self, folder: Folder, name: str) -> bool:
        try:
            return set(folder.tensors(name)) == self._needed()
        except DataError:
            return False

    def _needed(self) -> set[str]:
        return {f"{layer}.{part}" for layer in (self.encoder, self.decoder) for part in ("weight", "bias")}

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """The autoencoder."""
        choices = choices or {}
        where, text = folder.where(entry), called(folder, entry)
        repository = named(REPOSITORY, text)
        layer, _ = said(choices, "layer", repository and repository[2], f"no name says of which layer {where} is")
        found = folder.tensors(entry)
        check_tensors(found, self._needed(), set(), where)
        model, width = MODELS.get(repository[1].lower() if repository else "", (None, None))
        d = matrix(found, f"{self.encoder}.weight", where).shape[1]
        if width is not None and d != width:
            raise MismatchError(f"{where} reads {d} numbers, and the stream of {model} has {width}")
        tensors: dict[str, Lazy] = {
            "W_enc": matrix(found, f"{self.encoder}.weight", where).t(),
            "b_enc": found[f"{self.encoder}.bias"],
            "W_dec": matrix(found, f"{self.decoder}.weight", where).t(),
            "b_dec": found[f"{self.decoder}.bias"],
        }
        about = About(
            where=folder.name,
            entry=entry,
            files=(entry,),
            model=choices.get("model", model),
            library=self.library,
            origins={"reads": "choice" if "layer" in choices else "the name of the repository"},
            inferred=("not centered, ReLU, at what the layer returns: the set's description",),
            trained={"text": "conversations in the model's chat template"} if self.library == "Goodfire" else {},
            chosen=dict(choices),
        )
        site = f"{whole_number(layer, 'layer')}.resid_post"
        return autoencoder(self.name, (site, site), tensors, {"kind": "relu"}, about, where=where)


class QResearch(Goodfire):
    """A pickle with ``encoder.weight``, without the configuration that other libraries have beside it."""

    name: ClassVar[str] = "qresearch"
    encoder, decoder, library = "encoder", "decoder", "qresearch"

    def evidence(self, folder: Folder) -> str | None:
        """A pickle holds just those tensors, and nothing beside it says what it is."""
        if any(name.rpartition("/")[2] in ("config.json", "cfg.json") for name in folder.names()):
            return None
        return super().evidence(folder)
