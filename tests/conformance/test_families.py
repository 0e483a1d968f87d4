"""Every family of language models passes one suite, on tiny models whose every weight is random."""

from __future__ import annotations

import pytest
import torch
from tiny_models import MODELS, model, some_tokens
from torch import Tensor
from torch.nn import functional as F

from monoscope.core.errors import ModelError, SiteError
from monoscope.core.site import NORMALIZED_KINDS, Site
from monoscope.models import Edit, LanguageModel, current_positions
from monoscope.models.families import FAMILIES

IMAGES = ["vit", "dinov2", "dinov2_gated", "clip_vision_model"]
TEXT = [name for name in MODELS if name not in IMAGES]
WITH_LOGITS = [*TEXT, "vit", "dinov2"]
GENERATING = [name for name in TEXT if name != "bert"]

every_family = pytest.mark.parametrize("name", MODELS)
text_families = pytest.mark.parametrize("name", TEXT)
families_with_logits = pytest.mark.parametrize("name", WITH_LOGITS)
generating_families = pytest.mark.parametrize("name", GENERATING)


def layers(lm: LanguageModel) -> list[tuple[str, int]]:
    """Stack prefix and number of every layer."""
    found = {(f"{site.stack}." if site.stack else "", site.layer) for site in lm.sites() if site.layer is not None}
    return sorted(found)


def n_hooks(lm: LanguageModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.hf.modules())


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return a.shape == b.shape and bool(((a - b).abs().max() <= tolerance * (1 + b.abs().max())).item())


def test_every_table_is_tested() -> None:
    assert set(FAMILIES) <= {model(name).hf.config.model_type for name in MODELS}


# -- sites ----------------------------------------------------------------------------------------------------------


@every_family
def test_residual_identities(name: str) -> None:
    lm = model(name)
    family = lm._layout.family
    assert family is not None
    tokens = some_tokens(lm)
    for prefix, layer in layers(lm):
        kinds = ["resid_pre", "attn_out", "mlp_in", "mlp_out", "resid_post"]
        kinds += ["resid_mid"] if family.order == "sequential" else []
        read = lm.read(tokens, [f"{prefix}{layer}.{kind}" for kind in kinds])
        x = {site.kind: value for site, value in read.items()}
        scale = x["resid_post"].abs().max()
        assert x["attn_out"].abs().max() > 1e-3 * scale, "the addition would be invisible"
        assert x["mlp_out"].abs().max() > 1e-3 * scale
        if family.order == "sequential":
            assert close(x["resid_pre"] + x["attn_out"], x["resid_mid"])
            assert close(x["resid_mid"] + x["mlp_out"], x["resid_post"])
        elif family.order == "parallel":
            assert close(x["resid_pre"] + x["attn_out"] + x["mlp_out"], x["resid_post"])
        else:
            block = lm._layout.blocks[prefix.removesuffix(".")][layer]
            first, second = POST_NORMS["bert" if name == "bert" else "other"]
            if prefix != "decoder.":  # cross-attention stands in between
                assert close(block.get_submodule(first)(x["resid_pre"] + x["attn_out"]), x["mlp_in"])
            assert close(block.get_submodule(second)(x["mlp_in"] + x["mlp_out"]), x["resid_post"])
        if family.order != "sequential":
            with pytest.raises(SiteError, match="has no .*resid_mid"):
                lm.resolve(f"{prefix}{layer}.resid_mid")


POST_NORMS = {
    "bert": ("attention.output.LayerNorm", "output.LayerNorm"),
    "other": ("self_attn_layer_norm", "final_layer_norm"),
}


@every_family
def test_layers_join(name: str) -> None:
    lm = model(name)
    tokens = some_tokens(lm)
    for prefix, layer in layers(lm):
        if (prefix, layer + 1) in layers(lm):
            after, before = lm.resolve(f"{prefix}{layer}.resid_post"), lm.resolve(f"{prefix}{layer + 1}.resid_pre")
            read = lm.read(tokens, [after, before])
            assert torch.equal(read[after], read[before])


@every_family
def test_every_site_reads_at_its_width(name: str) -> None:
    lm = model(name)
    tokens = some_tokens(lm)
    sites = [site for site in lm.sites() if site.kind not in ("pattern", "logits") and site.layer in (None, 1)]
    read = lm.read(tokens, sites)
    n_pos = lm.context_length if name in IMAGES else tokens.shape[1]
    for site in sites:
        assert read[site].shape == (2, n_pos, lm.width(site)), site
        assert read[site].isfinite().all(), site
        assert lm.resolve(str(site)) == site
    widths = {site.kind: lm.width(site) for site in sites}
    assert {widths[k] for k in ("resid_pre", "resid_post", "attn_in", "attn_out", "mlp_in", "mlp_out")} == {lm.d_model}


@every_family
def test_heads(name: str) -> None:
    """q, k, v and pattern are what attention computes with, and z is what its output projection reads."""
    lm = model(name)
    tokens = some_tokens(lm)
    heads = getattr(lm.hf.config.get_text_config(), "num_attention_heads", 4)
    for prefix, layer in layers(lm):
        read = lm.read(tokens, [f"{prefix}{layer}.{kind}" for kind in ("attn_in", "q", "k", "v", "pattern", "z")])
        x = {site.kind: value for site, value in read.items()}
        pattern = x["pattern"]
        assert pattern.shape[:2] == (2, heads)
        assert close(pattern.sum(-1), torch.ones(pattern.shape[:-1]))
        v = x["v"].unflatten(-1, (-1, x["z"].shape[-1] // heads)).transpose(1, 2)
        v = v.repeat_interleave(heads // v.shape[1], dim=1)
        assert close((pattern @ v).transpose(1, 2).flatten(-2), x["z"])
        block = lm._layout.blocks[prefix.removesuffix(".")][layer]
        for kind, expected in zip("qkv", separate_projections(block, x["attn_in"], heads), strict=True):
            assert close(x[kind], expected), kind


def separate_projections(block: torch.nn.Module, x: Tensor, heads: int) -> list[Tensor]:
    """Queries, keys and values of attention input x, from rows of the weight matrices picked by hand."""
    modules = dict(block.named_modules())
    if (fused := modules.get("attn.c_attn")) is not None:  # GPT-2: weight [d, 3 * d], queries first
        d = fused.weight.shape[0]
        return [x @ fused.weight[:, i * d : (i + 1) * d] + fused.bias[i * d : (i + 1) * d] for i in range(3)]
    if (fused := modules.get("attention.query_key_value")) is not None:  # NeoX: every head's q, k, v side by side
        size = fused.weight.shape[0] // heads // 3
        rows = [[h * 3 * size + i * size + j for h in range(heads) for j in range(size)] for i in range(3)]
        return [F.linear(x, fused.weight[index], fused.bias[index]) for index in rows]
    names = [("q_proj", "k_proj", "v_proj"), ("query", "key", "value")]
    attention = next(m for n, m in modules.items() if n in ("self_attn", "attention.self", "attention"))
    if "attention.self" in modules:
        attention = modules["attention.self"]
    children = dict(attention.named_children())
    return [children[n](x) for n in next(n for n in names if n[0] in children)]


@every_family
def test_output_projection_of_z_is_the_attention_output(name: str) -> None:
    lm = model(name)
    tokens = some_tokens(lm)
    for prefix, layer in layers(lm):
        z, out = (lm.resolve(f"{prefix}{layer}.{kind}") for kind in ("z", "attn_out"))
        read = lm.read(tokens, [z, out])
        projection = lm._layout.place(z).module
        block = lm._layout.blocks[prefix.removesuffix(".")][layer]
        behind = {"gemma": "post_attention_layernorm", "olmo": "post_attention_layernorm", "dinov2": "layer_scale1"}
        expected = projection(read[z])
        for start, module in behind.items():
            if name.startswith(start):
                expected = block.get_submodule(module)(expected)
        assert close(expected, read[out])


@every_family
def test_normalized_sites_are_what_norms_yield_before_their_gain(name: str) -> None:
    lm = model(name)
    tokens = some_tokens(lm)
    for prefix, layer in layers(lm):
        for half in ("attn", "mlp"):
            site, after = Site.parse(f"{prefix}{layer}.{half}_normalized"), f"{prefix}{layer}.{half}_in"
            if site not in lm.sites():
                assert name in WITHOUT_NORMS_IN_FRONT
                continue
            assert lm.width(site) == lm.d_model
            x, y = lm.read(tokens, [site, after]).values()
            assert close(x.square().mean(-1), torch.ones(x.shape[:-1]), 1e-4)
            norm = lm._layout.place(site).module
            gain = norm.weight + 1 if name.startswith("gemma") else norm.weight
            assert close(x * gain + getattr(norm, "bias", 0), y)
            seen: list[Tensor] = []
            with lm.edit(Edit(site, seen.append)):
                lm.read(tokens, [after])
            assert torch.equal(seen[0], x)
            with pytest.raises(SiteError, match=f"can only be looked at.* {after}"), lm.edit(Edit(site, lambda x: x)):
                result(lm, tokens)


WITHOUT_NORMS_IN_FRONT = ("bert", "bart", "opt_post_norm", "olmo2", "olmo3")


@every_family
def test_raw_module_paths(name: str) -> None:
    lm = model(name)
    tokens = some_tokens(lm)
    stack, blocks = next(iter(lm._layout.blocks.items()))
    path = next(path for path, module in lm.hf.named_modules() if module is blocks[1])
    prefix = f"{stack}." if stack else ""
    named = [lm.resolve(f"{prefix}1.resid_pre"), lm.resolve(f"{prefix}1.resid_post")]
    raw = [lm.resolve(f"{path}:in"), lm.resolve(f"{path}:out")]
    read = lm.read(tokens, [*named, *raw])
    assert torch.equal(read[named[0]], read[raw[0]])
    assert torch.equal(read[named[1]], read[raw[1]])
    with pytest.raises(SiteError, match="did you mean"):
        lm.resolve(f"{path}x:out")


@text_families
def test_unembedding_gives_the_logits(name: str) -> None:
    lm = model(name)
    tokens = some_tokens(lm)
    prefix = "decoder." if name == "bart" else ""
    n_layers = len(lm._layout.blocks[prefix.removesuffix(".")])
    last = lm.resolve(f"{prefix}{n_layers - 1}.resid_post")
    norm, weight, bias, softcap = lm.unembed()
    assert weight.shape == (lm.d_model, lm.vocab_size)
    logits = norm(lm.read(tokens, [last])[last]) @ weight
    logits = logits if bias is None else logits + bias
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    assert close(logits, lm.logits(tokens))
    assert close(logits, lm.read(tokens, ["logits"])[Site(None, "logits")])
    assert (softcap is not None) == (name in ("gemma2", "gemma3_text"))


@text_families
def test_embed_is_the_token_embedding(name: str) -> None:
    lm = model(name)
    tokens = some_tokens(lm)
    prefix = "decoder." if name == "bart" else ""
    embed, first = lm.resolve(f"{prefix}embed"), lm.resolve(f"{prefix}0.resid_pre")
    assert lm.width(embed) == lm.d_model
    if not lm._layout.family.positions:
        read = lm.read(tokens, [embed, first])
        assert torch.equal(read[embed], read[first])


# -- edits ----------------------------------------------------------------------------------------------------------


def editable(lm: LanguageModel) -> list[Site]:
    return [site for site in lm.sites() if site.kind not in ("pattern", *NORMALIZED_KINDS)]


def result(lm: LanguageModel, tokens: Tensor) -> Tensor:
    """Logits, or the last residual stream of a model that has none."""
    if Site(None, "logits") in lm.sites():
        return lm.logits(tokens)
    last = Site(lm.n_layers - 1, "resid_post")
    return lm.read(tokens, [last])[last]


@every_family
def test_identity_edits_change_nothing_and_zero_changes_something(name: str) -> None:
    lm = model(name)
    tokens = some_tokens(lm)
    clean = result(lm, tokens)
    sites = editable(lm)
    for leave in (lambda x: x, lambda x: None, lambda x: x.clone()):
        with lm.edit([Edit(site, leave) for site in sites]):
            assert torch.equal(result(lm, tokens), clean)
    for site in sites:
        if site.layer not in (0, 2):
            with lm.edit(Edit(site, torch.zeros_like)):
                assert not close(result(lm, tokens), clean, 1e-4), site
    assert torch.equal(result(lm, tokens), clean)


@every_family
def test_edits_are_seen_downstream_exactly(name: str) -> None:
    """An edit of the residual stream changes the stream itself, for the MLP and for what the block adds to."""
    lm = model(name)
    tokens = some_tokens(lm)
    for prefix, layer in layers(lm):
        names = {kind: f"{prefix}{layer}.{kind}" for kind in ("resid_pre", "resid_mid", "resid_post", "mlp_out")}
        if lm._layout.family.order != "sequential":
            continue
        new = torch.randn_like(lm.read(tokens, [names["resid_mid"]])[lm.resolve(names["resid_mid"])])
        with lm.edit(Edit.at(names["resid_mid"], lambda x, new=new: new)):
            read = {site.kind: x for site, x in lm.read(tokens, [*names.values()]).items()}
        assert torch.equal(read["resid_mid"], new)
        assert close(new + read["mlp_out"], read["resid_post"])


@every_family
def test_edits_of_q_k_v_are_written_back_alone(name: str) -> None:
    lm = model(name)
    tokens = some_tokens(lm)
    for prefix, layer in layers(lm):
        sites = [lm.resolve(f"{prefix}{layer}.{kind}") for kind in "qkv"]
        clean = lm.read(tokens, sites)
        for edited in sites:
            new = torch.randn_like(clean[edited])
            with lm.edit(Edit(edited, lambda x, new=new: new)):
                read = lm.read(tokens, sites)
            for site in sites:
                assert torch.equal(read[site], new if site == edited else clean[site])


@every_family
def test_edits_compose_in_order(name: str) -> None:
    lm = model(name)
    tokens = some_tokens(lm)
    for kind in ("resid_mid", "mlp_out", "q"):
        prefix, layer = layers(lm)[0]
        if kind == "resid_mid" and lm._layout.family.order != "sequential":
            continue
        site = lm.resolve(f"{prefix}{layer}.{kind}")
        clean = lm.read(tokens, [site])[site]
        with lm.edit(Edit(site, lambda x: 2 * x), Edit(site, lambda x: x + 1)):
            assert close(lm.read(tokens, [site])[site], 2 * clean + 1)
            with lm.edit(Edit(site, lambda x: 3 * x)):
                assert close(lm.read(tokens, [site])[site], 3 * (2 * clean + 1))
            assert close(lm.read(tokens, [site])[site], 2 * clean + 1)
        assert torch.equal(lm.read(tokens, [site])[site], clean)


@families_with_logits
def test_gradients_flow_through_every_edit(name: str) -> None:
    lm = model(name)
    tokens = some_tokens(lm, batch=1, pos=5)
    for site in editable(lm):
        if site.layer in (0, 2):
            continue
        shift = torch.zeros(lm.width(site), requires_grad=True)
        with lm.edit(Edit(site, lambda x, shift=shift: x + shift * x.detach().abs().sqrt())):
            lm.logits(tokens).square().mean().backward()
        assert shift.grad is not None, site
        assert shift.grad.abs().max() > 0, site
        if site.kind in ("resid_mid", "resid_pre", "q"):
            assert slope_along(lm, tokens, site, shift.grad) == pytest.approx(shift.grad.norm().item(), rel=0.05), site
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in lm.hf.parameters())


def slope_along(lm: LanguageModel, tokens: Tensor, site: Site, gradient: Tensor) -> float:
    """Central difference of the loss along a gradient: its norm, if the gradient is right."""
    direction = gradient / gradient.norm()

    def loss(step: float) -> float:
        with lm.edit(Edit(site, lambda x: x + step * direction * x.detach().abs().sqrt())):
            return lm.logits(tokens).square().mean().item()

    step = 1e-2
    return (loss(step) - loss(-step)) / (2 * step)


# -- hooks and the forward pass ---------------------------------------------------------------------------------------


@every_family
def test_no_hook_is_left_behind(name: str) -> None:
    lm = model(name)
    tokens = some_tokens(lm)
    before = n_hooks(lm)
    lm.read(tokens, lm.sites()[:5])
    result(lm, tokens)
    assert n_hooks(lm) == before

    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("inside an edit")

    prefix, layer = layers(lm)[0]
    for kind in ("resid_post", "mlp_out", "q"):
        site = lm.resolve(f"{prefix}{layer}.{kind}")
        with pytest.raises(RuntimeError, match="inside an edit"), lm.edit(Edit(site, fail)):
            result(lm, tokens)
        with pytest.raises(RuntimeError, match="inside an edit"), lm.edit(Edit(site, fail)):
            lm.read(tokens, [f"{prefix}{layer}.resid_post", f"{prefix}{layer + 1}.resid_post"])
    with pytest.raises(ZeroDivisionError), lm.edit(Edit(site, lambda x: x)):
        raise ZeroDivisionError
    with pytest.raises(SiteError), lm.edit(Edit(site, lambda x: x), Edit(Site(77, "resid_post", site.stack), fail)):
        pass
    assert n_hooks(lm) == before
    assert current_positions() is None


@every_family
def test_reading_stops_after_the_last_site(name: str) -> None:
    lm = model(name)
    tokens = some_tokens(lm)
    stack, blocks = next(iter(lm._layout.blocks.items()))
    prefix = f"{stack}." if stack else ""
    called: list[str] = []
    handles = [
        blocks[1].register_forward_hook(lambda *_: called.append("block 1")),
        blocks[2].register_forward_pre_hook(lambda *_: called.append("block 2")),
    ]
    try:
        lm.read(tokens, [f"{prefix}0.mlp_out", f"{prefix}1.resid_post"])
        assert called == ["block 1"]
        called.clear()
        lm.read(tokens, [f"{prefix}1.attn_in"])
        assert called == []
    finally:
        for handle in handles:
            handle.remove()


@every_family
def test_read_carries_no_gradient_and_reading_once_or_together_agrees(name: str) -> None:
    lm = model(name)
    tokens = some_tokens(lm)
    sites = lm.sites()
    together = lm.read(tokens, sites)
    assert list(together) == sites
    for site in sites[:: len(sites) // 5]:
        assert not together[site].requires_grad
        assert torch.equal(lm.read(tokens, [site])[site], together[site])


# -- padding and generation -------------------------------------------------------------------------------------------


# Gemma 2 caps attention logits, which SDPA cannot.
ATTENTIONS = [(name, "eager") for name in TEXT] + [(name, "sdpa") for name in TEXT if name != "gemma2"]


@pytest.mark.parametrize(("name", "attention"), ATTENTIONS)
def test_a_padded_row_reads_as_the_row_alone(name: str, attention: str) -> None:
    lm = model(name)
    rows, longest = [some_tokens(lm, 1, n) for n in (4, 11, 7)], 11
    kinds = ("embed", "attn_in", "z", "mlp_out", "resid_post", "logits")
    sites = [site for site in lm.sites() if site.kind in kinds]
    lm.hf.set_attn_implementation(attention)
    try:
        alone = [lm.read(row, sites) for row in rows]
        for side in ("left", "right"):
            spans = [slice(longest - row.shape[1], longest) if side == "left" else slice(row.shape[1]) for row in rows]
            padded = torch.zeros(3, longest, dtype=torch.long)
            mask = torch.zeros(3, longest, dtype=torch.bool)
            for i, (row, span) in enumerate(zip(rows, spans, strict=True)):
                padded[i, span], mask[i, span] = row[0], True
            read = lm.read(padded, sites, mask)
            for site in sites:
                for i, span in enumerate(spans):
                    assert close(read[site][i : i + 1, span], alone[i][site]), (side, site)
    finally:
        lm.hf.set_attn_implementation("eager")


def some_edits(lm: LanguageModel) -> list[Edit]:
    """Edits that treat each token by itself, and one that acts by position."""
    prefix = "decoder." if lm.hf.config.is_encoder_decoder else ""
    generator = torch.Generator().manual_seed(3)
    push = torch.randn(lm.d_model, generator=generator)
    mix = torch.randn(lm.width(f"{prefix}1.k"), lm.width(f"{prefix}1.k"), generator=generator) / 4

    def by_position(x: Tensor) -> Tensor:
        positions = current_positions()
        assert positions is not None
        return torch.where((positions % 3 == 1)[..., None], x + push, x)

    edits = [
        Edit.at(f"{prefix}0.mlp_out", lambda x: x + push),
        Edit.at(f"{prefix}1.k", lambda x: x @ mix),
        Edit.at(f"{prefix}1.resid_pre", by_position),
    ]
    return [*edits, Edit.at("encoder.1.resid_post", lambda x: x.roll(1, -1))] if prefix else edits


def generated(lm: LanguageModel, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Seven new tokens, drawn so that they differ, and the logits each was drawn from."""
    steps: list[Tensor] = []
    with lm.edit(Edit.at("logits", lambda x: steps.append(x[:, -1]))):
        rows = lm.generate(tokens, max_new_tokens=7, temperature=4.0, seed=0, mask=mask)
    return rows, torch.stack(steps, dim=1)


def at_once(lm: LanguageModel, source: Tensor, rows: Tensor) -> Tensor:
    """The logits of the same seven tokens from one pass over whole rows, without a cache."""
    if lm.hf.config.is_encoder_decoder:
        positions = torch.arange(7).expand(len(rows), 7)
        return lm._run({"input_ids": source, "decoder_input_ids": rows[:, :-1], "use_cache": False}, positions).logits
    return lm.logits(rows)[:, -8:-1]


@generating_families
@pytest.mark.parametrize("edited", [False, True])
def test_cached_generation_equals_the_whole_row_at_once(name: str, edited: bool) -> None:
    lm = model(name)
    tokens = some_tokens(lm, batch=3, pos=8)
    with lm.edit(some_edits(lm) if edited else []):
        rows, steps = generated(lm, tokens)
        assert rows.shape == ((3, 8) if name == "bart" else (3, 15))
        assert len(rows[:, -7:].unique()) > 10, "constant rows would prove little"
        assert close(steps, at_once(lm, tokens, rows), 1e-4)
        greedy = lm.generate(tokens, max_new_tokens=1)
        assert torch.equal(greedy[:, -1], steps[:, 0].argmax(-1))
    if edited:
        assert not close(steps, at_once(lm, tokens, rows), 1e-2)


@generating_families
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_generation_equals_each_row_alone(name: str, side: str) -> None:
    lm = model(name)
    tokens = some_tokens(lm, batch=3, pos=9)
    mask = torch.zeros(3, 9, dtype=torch.bool)
    for row, n in enumerate((9, 4, 6)):
        mask[row, slice(9 - n, 9) if side == "left" else slice(0, n)] = True
    with lm.edit([edit for edit in some_edits(lm) if edit.site.stack != "encoder"]):
        rows, steps = generated(lm, torch.where(mask, tokens, 0), mask)
        for row in range(3):
            source = tokens[row][mask[row]][None]
            alone = rows[row : row + 1] if name == "bart" else torch.cat([source, rows[row : row + 1, -7:]], dim=1)
            if name != "bart":
                assert torch.equal(rows[row, 9 - source.shape[1] : 9], source[0])
            assert close(steps[row : row + 1], at_once(lm, source, alone), 1e-4), row


@pytest.mark.parametrize("name", ["bert", *IMAGES])
def test_models_that_do_not_generate_say_so(name: str) -> None:
    with pytest.raises(ModelError, match="does not generate"):
        model(name).generate(torch.ones(1, 3, dtype=torch.long), max_new_tokens=1)


def test_in_place_sites_hand_out_copies() -> None:
    """What an edit of the residual stream was given is not changed by a later edit of the same site."""
    lm = model("llama")
    tokens = some_tokens(lm)
    site = Site(1, "resid_mid")
    given: list[Tensor] = []
    clean = lm.read(tokens, [site])[site]
    with lm.edit(Edit(site, given.append), Edit(site, torch.zeros_like)):
        lm.logits(tokens)
    assert torch.equal(given[0], clean)
