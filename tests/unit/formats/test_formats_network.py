"""Published sets as they are on the hub: headers, settings and a few rows are read, never a whole file.

python -m pytest --network tests/unit/formats/test_formats_network.py
"""

from __future__ import annotations

from typing import Any

import pytest

from monoscope import formats

pytestmark = pytest.mark.network

PUBLISHED: list[tuple[str, str, dict[str, Any]]] = [
    ("registry:gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", "20.resid_post",
     {"features": 16384, "model": "google/gemma-2-2b", "published": {"l0": 71.0}}),
    ("registry:Llama3_1-8B-Base-LXA-32x/Llama3_1-8B-Base-L0A-32x", "0.attn_out",
     {"features": 131072, "acts_scale": pytest.approx(112.219178082, rel=1e-9)}),
    ("registry:Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L0R-8x", "0.resid_post",
     {"features": 32768, "acts_scale": pytest.approx(58.935251798561, rel=1e-9)}),
    ("registry:Llama-Scope-R1-Distill/400M-Slimpajama-400M-OpenR1-Math-220k/L0R", "0.resid_post",
     {"features": 32768, "acts_scale": pytest.approx(53.529954019974, rel=1e-6)}),
    ("registry:SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer0.sae.pt", "0.resid_post",
     {"features": 32768, "function": {"kind": "topk", "k": 50}}),
    ("registry:gemma-scope-2-1b-pt/resid_post_all/layer_10_width_16k_l0_small", "10.resid_post", {"features": 16384}),
    ("registry:Llama-3.1-8B-Instruct-SAE-l19", "19.resid_post", {"features": 65536}),
]  # fmt: skip


@pytest.mark.parametrize(("ref", "site", "expected"), PUBLISHED)
def test_published_files_are_what_their_description_says(ref: str, site: str, expected: dict[str, Any]) -> None:
    opened = formats.open(ref)
    described = opened.describe()
    assert described["reads"] == [site]
    assert {name: described[name] for name in expected} == expected
    if opened.layout == "llama_scope" and site == "0.attn_out":
        threshold = opened.tensors["activation.threshold"].rows([0])
        assert threshold.item() == pytest.approx(1.06164383561644, rel=1e-6)
    if opened.layout == "gemma_scope":
        assert opened.direction(0).norm().item() == pytest.approx(1, abs=1e-3)
