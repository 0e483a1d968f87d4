"""``registry``: known releases on the command line."""

from __future__ import annotations

from command_line import Call


def test_the_command_line(call: Call) -> None:
    found = call("registry", "search", "qwen3", "8b-base", "--json").result["releases"]
    assert [release["name"] for release in found] == [
        "SAE-Res-Qwen3-8B-Base-W64K-L0_50",
        "SAE-Res-Qwen3-8B-Base-W64K-L0_100",
    ]
    text = call("registry", "search", "gemma-scope-2b-pt-transcoders").out
    assert "gemma-scope-2b-pt-transcoders  google/gemma-2-2b  {layer}.mlp_normalized -> {layer}.mlp_out" in text
    shown = call("registry", "show", "SAE-Res-Qwen3.5-27B-W80K-L0_50", "--json").result
    assert shown["set 1"]["features"] == [81920]
    assert "restricted use" in shown["license"]
    shown = call("registry", "show", "gemma-2-2b/20-gemmascope-res-16k/4232", "--json").result
    assert (shown["reference"], shown["feature"], shown["reads"]) == (
        "hf://google/gemma-scope-2b-pt-res/layer_20/width_16k",
        4232,
        "20.resid_post",
    )
    path = "Llama-Scope-R1-Distill/0-Slimpajama-800M-OpenR1-Math-220k/L3R"
    assert call("registry", "show", path, "--json").result["reads"] == "3.resid_post"
    for arguments in (["show", "nothing"], ["search", "nothing", "at", "all"]):
        done = call("registry", *arguments)
        assert done.code == 2
        assert "registry search" in done.err
