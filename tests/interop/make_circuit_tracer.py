"""Golden files of circuit-tracer: transcoder sets and cross-layer transcoders that its own code writes, and computes.

Runs where circuit-tracer is installed, without monoscope:  python make_circuit_tracer.py [CASE ...]

Every case is a directory with ``config.yaml``, the library's tensor files, and ``x``, ``acts`` and ``recon``, all
``[layer, token, width]``. Weights are random, and skips are not symmetric. In the
TopK set some tokens have fewer than k positive pre-activations: the library keeps negative ones there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import yaml
from circuit_tracer.transcoder.activation_functions import JumpReLU, TopK
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_clt
from circuit_tracer.transcoder.single_layer_transcoder import (
    SingleLayerTranscoder,
    TranscoderSet,
    load_transcoder_set,
)
from golden_files import finish, start

D, F, N, LAYERS, K = 8, 24, 16, 3, 14
SETS = {
    "plt_relu_skip": {"activation": "relu", "skip": True, "hooks": ("hook_resid_mid", "hook_mlp_out")},
    "plt_jumprelu": {"activation": "jumprelu", "skip": False, "hooks": ("ln2.hook_normalized", "hook_mlp_out")},
    "plt_jumprelu_skip": {"activation": "jumprelu", "skip": True, "hooks": ("mlp.hook_in", "mlp.hook_out")},
    "plt_topk": {"activation": "topk", "skip": False, "hooks": ("mlp.hook_in", "mlp.hook_out")},
}
CLTS = {"clt_relu": "relu", "clt_jumprelu": "jump_relu"}


def fill_(module: torch.nn.Module, generator: torch.Generator) -> None:
    for name, parameter in module.named_parameters():
        value = torch.randn(parameter.shape, generator=generator) * 0.5
        if "threshold" in name:
            value = 0.3 + value.abs()
        parameter.data.copy_(value)


def transcoder_set(case: dict, directory: Path, generator: torch.Generator) -> tuple[TranscoderSet, dict]:
    functions = {
        "relu": lambda: torch.nn.functional.relu,
        "jumprelu": lambda: JumpReLU(torch.zeros(F), 0.1),
        "topk": lambda: TopK(K),
    }
    layers = {}
    for layer in range(LAYERS):
        function = functions[case["activation"]]()
        layers[layer] = SingleLayerTranscoder(
            D, F, function, layer, skip_connection=case["skip"], device=torch.device("cpu"), dtype=torch.float32
        )
        fill_(layers[layer], generator)
    read, write = case["hooks"]
    made = TranscoderSet(layers, read, write, scan="golden")
    made.to_safetensors(str(directory))
    config = {
        "model_name": "openai-community/gpt2",
        "model_kind": "transcoder_set",
        "feature_input_hook": read,
        "feature_output_hook": write,
        "scan": "golden/set",
    }
    if case["activation"] == "topk":  # this version has no reader of TopK sets, so what computes is what was written
        return made, config | {"activation": "topk", "k": K}
    paths = {layer: str(directory / f"layer_{layer}.safetensors") for layer in range(LAYERS)}
    return load_transcoder_set(paths, "golden", read, write, device=torch.device("cpu")), config


def cross_layer(function: str, directory: Path, generator: torch.Generator) -> tuple[CrossLayerTranscoder, dict]:
    made = CrossLayerTranscoder(
        LAYERS, F, D, function, lazy_decoder=False, device=torch.device("cpu"), dtype=torch.float32
    )
    fill_(made, generator)
    made.to_safetensors(str(directory))
    config = {
        "model_name": "openai-community/gpt2",
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": "hook_resid_mid",
        "feature_output_hook": "hook_mlp_out",
        "scan": "golden/clt",
    }
    return load_clt(str(directory), device=torch.device("cpu"), dtype=torch.float32), config


def make(name: str) -> None:
    generator = torch.Generator().manual_seed(sorted([*SETS, *CLTS]).index(name))
    directory = start("circuit_tracer", name)
    if name in SETS:
        model, config = transcoder_set(SETS[name], directory, generator)
    else:
        model, config = cross_layer(CLTS[name], directory, generator)
    (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    x = torch.randn(LAYERS, N, D, generator=generator) * 1.5 + 0.2
    with torch.no_grad():
        acts = model.encode(x)
        recon = model.decode(acts, x)
        for step in (1 + 1e-5, 1 - 1e-5):
            assert torch.equal(model.encode(x * step) != 0, acts != 0), f"{name}: a score lies at its threshold"
    finish(directory, "circuit-tracer", x, acts, recon)


if __name__ == "__main__":
    for case in sys.argv[1:] or [*SETS, *CLTS]:
        make(case)
