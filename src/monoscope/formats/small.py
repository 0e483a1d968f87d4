"""Two smaller sets: autoencoders of attention in GPT-2, and temporal ones, which are not read.

``ckkissane/attn-saes-gpt2-small-all-layers``: ``{name}.pt`` with ``W_enc [d, F] b_enc W_dec [F, d] b_dec``, as here,
and ``{name}_cfg.json`` with ``act_name``, ``act_size``, ``dict_size``. Centered, ReLU, on z, the heads side by side:

    acts = relu((z - b_dec) @ W_enc + b_enc)       recon = acts @ W_dec + b_dec

They were trained on TransformerLens' z, which lacks the bias of the values: ``formats.at_model`` gives it back.

``canrager/temporalSAEs``: attention layers encode a token from those before it. Such a dictionary does not treat tokens
one by one and has no equal here; it is recognized, and refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from monoscope.core.errors import ConfigError, DataError, MismatchError
from monoscope.formats.folder import Folder
from monoscope.formats.foreign_sites import site_named
from monoscope.formats.layout import Layout
from monoscope.formats.opened import About, Opened, check_tensors
from monoscope.formats.published import autoencoder, directories_of, inside, matrix

MODEL = "openai-community/gpt2"


class AttentionAutoencoders(Layout):
    """``{name}.pt`` beside ``{name}_cfg.json``."""

    name: ClassVar[str] = "attn_saes"

    def evidence(self, folder: Folder) -> str | None:
        """A configuration names an activation, its size, and that of the dictionary."""
        for entry in self.entries(folder)[:1]:
            config = folder.json(_config_of(entry))
            if {"act_name", "act_size", "dict_size"} <= config.keys():
                return "a .pt file beside a _cfg.json with act_name and dict_size"
        return None

    def entries(self, folder: Folder) -> list[str]:
        """One for each pair."""
        names = set(folder.names())
        return sorted(name for name in names if name.endswith(".pt") and _config_of(name) in names)

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """One layer's autoencoder."""
        config, where = folder.json(_config_of(entry)), folder.where(entry)
        found = folder.tensors(entry)
        check_tensors(found, {"W_enc", "b_enc", "W_dec", "b_dec"}, set(), where)
        settings = folder.where(_config_of(entry))
        site, notes = site_named(_hook(config, settings), MODEL, settings)
        sizes = dict(zip(("act_size", "dict_size"), matrix(found, "W_enc", where).shape, strict=True))
        for key, size in sizes.items():
            if config.get(key) != size:
                raise MismatchError(f"{where} has {size}, and its configuration says {key} = {config.get(key)!r}")
        about = About(
            where=folder.name,
            entry=entry,
            files=(_config_of(entry), entry),
            model=MODEL,
            library="ckkissane",
            origins={"reads": "act_name"},
            inferred=("centered, ReLU: the set's description",),
            warnings=notes,
        )
        wiring = {"center": True}
        return autoencoder(
            self.name, (str(site), str(site)), found, {"kind": "relu"}, about, where=where, wiring=wiring
        )


def _config_of(name: str) -> str:
    return name.removesuffix(".pt") + "_cfg.json"


def _hook(config: Mapping[str, Any], where: str) -> str:
    """The full name of what is read; some files name it apart from its layer."""
    name, layer = config.get("act_name"), config.get("layer")
    if isinstance(name, str) and name.startswith("blocks."):
        return name
    if isinstance(name, str) and isinstance(layer, int):
        return f"blocks.{layer}.{'attn.' if name in ('hook_z', 'z') else ''}{name if name != 'z' else 'hook_z'}"
    raise ConfigError(f"{where}: act_name is {name!r}, expected one such as blocks.5.attn.hook_z")


class Temporal(Layout):
    """``conf.yaml`` and ``latest_ckpt.safetensors`` in a directory ``temporal``."""

    name: ClassVar[str] = "temporal"

    def evidence(self, folder: Folder) -> str | None:
        """The files are there, and there are attention layers."""
        for entry in self.entries(folder)[:1]:
            if any(
                name.startswith("attn_layers.") for name in folder.tensors(inside(entry, "latest_ckpt.safetensors"))
            ):
                return "conf.yaml and latest_ckpt.safetensors with attn_layers"
        return None

    def entries(self, folder: Folder) -> list[str]:
        """One for each layer."""
        both = set(directories_of(folder, "conf.yaml"))
        return [entry for entry in directories_of(folder, "latest_ckpt.safetensors") if entry in both]

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """Nothing: it is refused."""
        raise DataError(
            f"{folder.name} is a temporal autoencoder: attention encodes a token from those before it, which no wiring "
            "here does, so it is not read"
        )
