"""Reads what monoscope writes for circuit-tracer, with it. Run in the environment ``circuit-tracer``."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from circuit_tracer.transcoder.activation_functions import TopK
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from peer_files import read_all


def read(directory: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations and reconstruction of all layers, ``[token, layer, width]``, by the loaders of sets and of CLTs.

    The version here has no reader of TopK sets: its loader checks the tensors, and its TopK is put in.
    """
    config, x = yaml.safe_load((directory / "config.yaml").read_text()), x.movedim(1, 0)
    device = torch.device("cpu")
    if config["model_kind"] == "cross_layer_transcoder":
        made = load_clt(str(directory), device=device, dtype=torch.float32)
    else:
        layers = sorted(directory.glob("layer_*.safetensors"))
        paths = {layer: str(directory / f"layer_{layer}.safetensors") for layer in range(len(layers))}
        hooks = config["feature_input_hook"], config["feature_output_hook"]
        made = load_transcoder_set(paths, config["scan"], *hooks, device=device)
        if config.get("activation") == "topk":
            for transcoder in made:
                transcoder.activation_function = TopK(config["k"])
    acts = made.encode(x)
    return acts.movedim(0, 1), made.decode(acts, x).movedim(0, 1)


if __name__ == "__main__":
    read_all(read)
