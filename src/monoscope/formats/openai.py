"""OpenAI's autoencoders of GPT-2 small: pickles at ``{location}_v5_{32k,128k}/autoencoders/{layer}.pt``.

    z = (x - mean) / (std + 1e-5)       if the activation is TopK; otherwise z = x
    pre = (z - pre_bias) @ encoder.weight.T + latent_bias           acts = ReLU or TopK
    recon = (acts @ decoder.weight.T + pre_bias) * std + mean       (without the last two likewise)

The standard deviation is unbiased and its epsilon outside the root. ``encoder.weight [F, d]`` and ``decoder.weight
[d, F]``, both transposed here; ``pre_bias`` is b_dec, and centers. What is read is in the names alone:

    resid_post_mlp     resid_post          resid_post_attn     resid_mid           mlp_post_act    mlp_act
    resid_delta_mlp    mlp_out             resid_delta_attn    attn_out

SAELens' copies state a context of 64 without BOS. With BOS, the first position dominates the statistics.

Source: Gao et al. 2024 (arXiv:2406.04093); openai/sparse_autoencoder, ``model.py`` and ``paths.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from monoscope.core.errors import ConfigError, DataError
from monoscope.formats.folder import Folder
from monoscope.formats.layout import Layout
from monoscope.formats.lazy import Lazy
from monoscope.formats.opened import About, Opened, check_tensors
from monoscope.formats.published import (
    autoencoder,
    by_numbers,
    called,
    check_width,
    has_rounded,
    matrix,
    named,
    said,
    whole_number,
)

SITES = {
    "resid_post_mlp": "resid_post",
    "resid_post_attn": "resid_mid",
    "resid_delta_mlp": "mlp_out",
    "resid_delta_attn": "attn_out",
    "mlp_post_act": "mlp_act",
}
NEEDED = {"pre_bias", "latent_bias", "encoder.weight", "decoder.weight"}
STATISTICS = {"stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"}
FILE = r"(?:^|/)(\d+)\.pt$"


class OpenAI(Layout):
    """Pickles that hold ``pre_bias`` and ``latent_bias``."""

    name: ClassVar[str] = "openai"
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"location": tuple(SITES), "layer": ()}

    def evidence(self, folder: Folder) -> str | None:
        """A .pt file holds both."""
        entries = self.entries(folder)[:1]
        return "a pickle with pre_bias and latent_bias" if entries and self._holds(folder, entries[0]) else None

    def entries(self, folder: Folder) -> list[str]:
        """One for each layer."""
        numbered = sorted((name for name in folder.names() if named(FILE, name)), key=by_numbers)
        return numbered or ([folder.focus] if folder.focus.endswith(".pt") else [])

    def _holds(self, folder: Folder, entry: str) -> bool:
        try:
            return {"pre_bias", "latent_bias"} <= set(folder.tensors(entry))
        except DataError:
            return False

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """One layer's autoencoder."""
        choices = choices or {}
        where, text = folder.where(entry), called(folder, entry)
        location = named(rf"({'|'.join(SITES)})(?:_v(\d+))?(?:_(\d+k))?", text)
        numbered = named(FILE, entry)
        place, _ = said(choices, "location", location and location[1].lower(), f"no name says where {where} reads")
        layer, _ = said(choices, "layer", numbered and numbered[1], f"no name says of which layer {where} is")
        held = folder.pickled(entry)
        tensors = {str(name): value for name, value in held.items() if isinstance(value, Lazy)}
        settings = {str(name): value for name, value in held.items() if not isinstance(value, Lazy)}
        check_tensors(tensors, NEEDED, STATISTICS, where)
        function, is_topk = _function(settings, where)
        if location and location[3]:
            check_width(matrix(tensors, "encoder.weight", where).shape[0], location[3], _is_thousands, where)
        canonical = {
            "W_enc": matrix(tensors, "encoder.weight", where).t(),
            "b_enc": tensors["latent_bias"],
            "W_dec": matrix(tensors, "decoder.weight", where).t(),
            "b_dec": tensors["pre_bias"],
        }
        wiring = {"center": True, "normalizer": "layer_norm" if is_topk else "none"}
        about = About(
            where=folder.name,
            entry=entry,
            files=(entry,),
            model="openai-community/gpt2",
            library="openai/sparse_autoencoder",
            prepend_bos=False,
            context_length=64,
            published={"l0": float(function["k"])} if is_topk else {},
            origins={"function": "activation", "reads": "choice" if "location" in choices else "the name of the path"},
            inferred=(
                f"{'' if is_topk else 'no '}layer norm of what is read, as the activation is {settings['activation']}",
                "of GPT-2 small, in contexts of 64 tokens without BOS: the set's description",
            ),
            chosen=dict(choices),
        )
        site = f"{whole_number(layer, 'layer')}.{SITES[place]}"
        return autoencoder(self.name, (site, site), canonical, function, about, where=where, wiring=wiring)


def _function(settings: Mapping[str, Any], where: str) -> tuple[dict[str, Any], bool]:
    """The activation function, and whether it is TopK."""
    if unknown := sorted(settings.keys() - {"activation", "activation_state_dict"}):
        raise DataError(f"{where} holds {', '.join(unknown)}, for which no rule is known: refused")
    state = settings.get("activation_state_dict") or {}
    match settings.get("activation"), state:
        case "ReLU", {**rest} if not rest:
            return {"kind": "relu"}, False
        case "TopK", {"k": int(k), "postact_fn": "ReLU", **rest} if not rest:
            return {"kind": "topk", "k": k}, True
        case "TopK", {"k": int(k), **rest} if not rest:
            return {"kind": "topk", "k": k}, True
        case activation, _:
            raise ConfigError(
                f"{where}: the activation is {activation!r} with {state}; ReLU, and TopK with a k and postact_fn ReLU, "
                "are read"
            )


def _is_thousands(n_features: int, width: str) -> bool:
    """32k are 32768 and 128k are 131072 here."""
    return has_rounded(n_features, width) or n_features == int(width[:-1]) * 1024
