"""Names of other libraries, on tiny models of every family: each means the tensor its translation reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny_models import MODELS, model, some_tokens
from torch import Tensor

from monoscope.core.errors import SiteError
from monoscope.core.site import KINDS, Site
from monoscope.models import LanguageModel
from monoscope.models.family import Family
from monoscope.models.names import family_named, lens_name, module_name, translate

every_family = pytest.mark.parametrize("name", MODELS)
# TransformerLens knows no stacks and reads no images.
IN_LENS = [name for name in MODELS if name not in ("bart", "vit", "dinov2", "dinov2_gated", "clip_vision_model")]


def table(lm: LanguageModel) -> Family:
    assert lm._layout.family is not None
    return lm._layout.family


def read(lm: LanguageModel, site: Site | str) -> Tensor:
    """What is at a site of a model whose tokens are the same every time."""
    torch.manual_seed(0)
    return next(iter(lm.read(some_tokens(lm), [site]).values()))


def hooked(lm: LanguageModel, path: str) -> Tensor:
    """What a module of the model is given or yields, by a hook of torch alone."""
    module, port = path.rsplit(".", 1)
    seen: list[Tensor] = []

    def note(module: torch.nn.Module, args: tuple, kwargs: dict, output: object = None) -> None:
        given = kwargs["hidden_states"] if "hidden_states" in kwargs else next(iter((*args, *kwargs.values())), None)
        value: Any = given if port == "input" else output
        seen.append((value[0] if isinstance(value, tuple) else value).clone())

    found = lm.hf.get_submodule(module)
    register = found.register_forward_pre_hook if port == "input" else found.register_forward_hook
    handle = register(note, with_kwargs=True)
    torch.manual_seed(0)
    try:
        lm.hf(**lm._inputs.arguments(some_tokens(lm), None))
    finally:
        handle.remove()
    return seen[0]


def sites_of(lm: LanguageModel) -> Iterator[Site]:
    yield from (site for site in lm.sites() if site.layer in (None, 1))


@every_family
def test_module_names_round_trip_and_name_the_tensor(name: str) -> None:
    lm = model(name)
    if not lm.hf.base_model_prefix or lm.hf.base_model is lm.hf:
        pytest.skip("a base model alone, whose paths have no base")
    named = 0
    for site in sites_of(lm):
        at = table(lm).sites.get(site.kind)
        if (at is not None and (at.fused or at.normalized)) or (site.kind == "embed" and table(lm).project_in):
            with pytest.raises(SiteError, match="no module yields"):
                module_name(site, table(lm))
            continue
        path = module_name(site, table(lm))
        if site.kind in ("logits", "pattern"):
            continue
        same = hooked(lm, path)
        assert torch.equal(same.reshape(read(lm, site).shape), read(lm, site)), path
        back = translate(path, table(lm)).site
        assert back == site or torch.equal(read(lm, back), read(lm, site)), path
        bare = path.removeprefix(f"{lm.hf.base_model_prefix}.")
        for spelled in (bare, path.replace(".1.", "[1]."), f"{path}[0]", "model.language_model." + bare):
            assert translate(spelled, table(lm)).site == back, spelled
        assert lm.resolve(path) == back
        named += 1
    assert named >= 9


@every_family
def test_other_modules_of_the_same_tensor(name: str) -> None:
    lm = model(name)
    for stack in lm._layout.blocks:
        prefix = ".".join(p for p in (table(lm).base, table(lm).blocks[stack], "1") if p)
        for module, kind in table(lm).also.items():
            path = f"{prefix}.{module.replace(':', '.')}put"
            translated = translate(path, table(lm)).site
            assert translated == Site(1, kind, stack)
            if translated in lm.sites():  # an expert's block has no mlp.down_proj
                try:
                    there = hooked(lm, path)
                except AttributeError:
                    continue
                assert torch.equal(there.reshape(read(lm, translated).shape), read(lm, translated)), path


@pytest.mark.parametrize("name", IN_LENS)
def test_transformer_lens_names_round_trip(name: str) -> None:
    lm = model(name)
    unnamed = ["attn_in", "logits", *(["attn_out", "mlp_out"] if name.startswith("olmo") else [])]
    for site in sites_of(lm):
        if site.kind in unnamed:
            with pytest.raises(SiteError, match="TransformerLens has no name for"):
                lens_name(site, table(lm))
            continue
        foreign = lens_name(site, table(lm))
        assert translate(foreign, table(lm)).site == site
        assert lm.resolve(foreign) == site


@pytest.mark.parametrize("name", IN_LENS)
def test_transformer_lens_reads_the_stream_before_the_norm_where_it_says_in(name: str) -> None:
    lm = model(name)
    mlp = translate("blocks.1.hook_mlp_in", table(lm))
    attention = translate("blocks.1.hook_attn_in", table(lm))
    assert attention.site == Site(1, "resid_pre")
    assert "the stream before the norm" in attention.notes[0]
    order = table(lm).order
    if order == "sequential":
        assert mlp.site == Site(1, "resid_mid")
        assert torch.equal(read(lm, mlp.site), read(lm, "1.resid_mid"))
    elif order == "parallel":
        assert mlp.site == Site(1, "resid_pre")
        assert "not 1.mlp_in" in mlp.notes[0]
    if order != "post_norm" and not name.startswith("olmo"):
        assert not torch.allclose(read(lm, mlp.site), read(lm, "1.mlp_in"))


def test_what_stands_behind_a_norm_in_gemma_and_before_it_in_olmo() -> None:
    """Gemma: TransformerLens' outputs are what the stream receives. OLMo: they are before the norm, and not that."""
    for name in ("gemma2", "gemma3_text", "gemma3"):
        for half in ("attn", "mlp"):
            assert translate(f"blocks.1.hook_{half}_out", table(model(name))).site == Site(1, f"{half}_out")
        raw = model(name).resolve("blocks.1.mlp.hook_out")
        assert not torch.allclose(read(model(name), raw), read(model(name), "1.mlp_out"))
    for name in ("olmo2", "olmo3"):
        lm = model(name)
        found = translate("blocks.1.hook_attn_out", table(lm))
        assert str(found.site) == "model.layers.1.self_attn:out"
        assert "before the norm, so not 1.attn_out" in found.notes[0]
        stream = read(lm, "1.resid_pre")
        assert torch.allclose(stream + read(lm, "1.attn_out"), read(lm, "1.resid_mid"), atol=1e-5)
        assert not torch.allclose(stream + read(lm, found.site), read(lm, "1.resid_mid"), atol=1e-2)
        with pytest.raises(SiteError, match="has no name for 1.mlp_out in this family: its .*output of mlp"):
            lens_name("1.mlp_out", table(lm))


def test_bert_has_the_norm_behind_each_addition_named_apart() -> None:
    lm = model("bert")
    sum_before = lm.resolve("blocks.1.hook_resid_post")
    assert sum_before.module == "bert.encoder.layer.1.output.LayerNorm"
    after = lm.hf.get_submodule(sum_before.module)(read(lm, sum_before))
    assert torch.allclose(after, read(lm, "1.resid_post"), atol=1e-5)
    assert lm.resolve("blocks.1.hook_normalized_resid_post") == Site(1, "resid_post")
    middle = read(lm, lm.resolve("blocks.1.hook_resid_mid"))
    assert torch.allclose(middle, read(lm, "1.resid_pre") + read(lm, "1.attn_out"), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in IN_LENS if name not in ("bert", "opt_post_norm")])
def test_hidden_states_end_after_the_final_norm(name: str) -> None:
    lm = model(name)
    torch.manual_seed(0)
    states = lm.hf(**lm._inputs.arguments(some_tokens(lm), None), output_hidden_states=True).hidden_states
    for index in range(4):
        site = lm.resolve(f"hidden_states[{index}]")
        assert torch.allclose(read(lm, site), states[index], atol=1e-6), index
    last = translate("hidden_states[-1]", table(lm), n_layers=3)
    assert last.site.module is not None
    assert "not 2.resid_post" in last.notes[0]
    assert not torch.allclose(read(lm, "2.resid_post"), states[-1], atol=1e-2)
    gain = table(lm).norm
    assert gain is not None
    norm = lm._layout.hf.base_model.get_submodule(gain)
    assert torch.allclose(norm(read(lm, "2.resid_post")), states[-1], atol=1e-5)


@pytest.mark.parametrize(
    ("model_name", "family"),
    [
        ("google/gemma-2-2b", "gemma2"),
        ("gemma-3-1b-it", "gemma3_text"),
        ("google/gemma-3-4b-pt", "gemma3"),
        ("google/gemma-v3-1b", None),
        ("meta-llama/Llama-3.1-8B", "llama"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "llama"),
        ("Qwen/Qwen3-1.7B-Base", "qwen3"),
        ("Qwen/Qwen3-30B-A3B-Base", "qwen3_moe"),
        ("Qwen/Qwen3.5-9B-Base", None),
        ("Qwen/Qwen2.5-7B", "qwen2"),
        ("EleutherAI/pythia-70m-deduped", "gpt_neox"),
        ("gpt2-small", "gpt2"),
        ("allenai/OLMo-2-1124-7B", "olmo2"),
        ("somebody/model", None),
    ],
)
def test_families_by_name(model_name: str, family: str | None) -> None:
    assert family_named(model_name) == family


@pytest.mark.parametrize(
    ("name", "model_name", "port", "site"),
    [
        ("layers.10", "EleutherAI/pythia-70m", "out", "10.resid_post"),
        ("layers.10", "", "out", "10.resid_post"),
        ("layers.10", "", "in", "10.resid_pre"),
        ("h.8", "gpt2", "out", "8.resid_post"),
        ("h.8.mlp", "gpt2", "in", "8.mlp_in"),
        ("layers.10.mlp", "meta-llama/Llama-3.2-1B", "out", "10.mlp_out"),
        ("layers.10.mlp", "meta-llama/Llama-3.2-1B", "in", "10.mlp_in"),
        ("layers.10.mlp", "google/gemma-2-2b", "out", "model.layers.10.mlp:out"),
        ("layers.10.mlp", "google/gemma-2-2b", "in", "10.mlp_in"),
        ("layers.10.mlp", "", "out", "layers.10.mlp:out"),
        ("layers.4.post_feedforward_layernorm", "google/gemma-2-2b", "out", "4.mlp_out"),
        ("embed_tokens", "google/gemma-2-2b", "out", "embed"),
        ("model.layers.5.pre_feedforward_layernorm.output", "google/gemma-3-1b-pt", "out", "5.mlp_in"),
        ("model.language_model.layers.5.post_feedforward_layernorm.output", "google/gemma-3-4b-it", "out", "5.mlp_out"),
        ("model.layers.5.self_attn.o_proj.input", "google/gemma-3-1b-pt", "out", "5.z"),
        ("model.layers.5.output", "google/gemma-3-1b-pt", "out", "5.resid_post"),
        ("model.layers[5].mlp.output[0]", "meta-llama/Llama-3.1-8B", "out", "5.mlp_out"),
        ("transformer.h.3.attn.c_attn.output", "gpt2", "out", "transformer.h.3.attn.c_attn:out"),
        ("blocks.3.mlp.hook_pre", "gpt2", "out", "transformer.h.3.mlp.c_fc:out"),
        ("12.resid_post", "gpt2", "out", "12.resid_post"),
        ("12.resid_post@base", "gpt2", "out", "12.resid_post@base"),
        ("model.vision_tower.encoder.layers.3.mlp", "google/gemma-3-4b-pt", "out",
         "model.vision_tower.encoder.layers.3.mlp:out"),
        ("output.logits", "gpt2", "out", "logits"),
    ],
)  # fmt: skip
def test_names_with_only_the_models_name(name: str, model_name: str, port: str, site: str) -> None:
    assert str(translate(name, model_name, port=port).site) == site


def test_notes_say_what_may_surprise() -> None:
    assert translate("blocks.3.attn.hook_z", "google/gemma-2-2b").notes == ()
    assert "lacks the bias of the values" in translate("blocks.3.attn.hook_z", "gpt2").notes[0]
    assert "folded them into" in translate("blocks.3.ln2.hook_normalized", "gpt2").notes[0]
    assert translate("blocks.3.ln2.hook_normalized", "google/gemma-2-2b").notes == ()
    assert "family is not known" in translate("layers.3.mlp", "somebody/model").notes[0]


@pytest.mark.parametrize(
    ("name", "model_name", "says"),
    [
        ("blocks.3.attn.hook_result", "gpt2", "the heads side by side are 3.z"),
        ("blocks.3.ln1.hook_scale", "gpt2", "3.attn_normalized is the stream after it"),
        ("blocks.3.hook_mlp_otu", "gpt2", "did you mean 'hook_mlp_out'"),
        ("blocks.3.ln2.hook_normalized", "allenai/OLMo-2-1124-7B", "no norm in front"),
        ("ln_final.hook_normalized", "gpt2", "after the final norm but before its gain"),
        ("hidden_states[-1]", "gpt2", "counts from the end"),
        ("12.resid_pots", "gpt2", "did you mean 'resid_post'"),
        ("../../etc", "gpt2", "cannot read"),
        ("", "gpt2", "cannot read"),
    ],
)
def test_names_of_nothing(name: str, model_name: str, says: str) -> None:
    with pytest.raises(SiteError, match=says):
        translate(name, model_name)


def test_every_kind_has_a_name_or_a_reason() -> None:
    for kind in KINDS:
        site = Site(None if kind in ("embed", "logits") else 2, kind)
        if kind in ("attn_in", "logits"):
            with pytest.raises(SiteError, match=kind):
                lens_name(site)
        else:
            assert translate(lens_name(site)).site == site
