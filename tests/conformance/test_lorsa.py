"""Lorsa against the attention it decomposes, of every kind of family, and against sums written out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import model, scaled, some_tokens
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from monoscope.core.attention import AttentionWeights
from monoscope.core.errors import ConfigError
from monoscope.core.site import Site
from monoscope.dictionaries import ActivationFunction, Lorsa, Recipe, Wiring, load
from monoscope.dictionaries.initialize import Initialization, Origin, Sample
from monoscope.dictionaries.variants import TopK
from monoscope.models import LanguageModel
from monoscope.training.downstream import origin_of

IN, OUT = Site(0, "attn_in"), Site(0, "attn_out")
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "phi", "opt", "bert"]
KINDS = [*FAMILIES, "llama3"]
FORM = {"d_head": 6, "scale": 2.0, "bias": True, "norm": "rms", "rotary": {"frequencies": [0.9, 0.2]}}


def lm_of(name: str) -> LanguageModel:
    return scaled(name) if name == "llama3" else model(name)


def read(lm: LanguageModel, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """What attention reads, its heads' outputs ``[sequence, pos, head, d_head]``, and what it writes."""
    sites = [IN, Site(0, "z"), OUT]
    x, z, out = lm.read(tokens, sites, mask).values()
    return x, z.unflatten(-1, (lm.hf.config.num_attention_heads, -1)), out


def start(weights: AttentionWeights, x: Tensor, target: Tensor, n_features: int, **settings: Any) -> Lorsa:
    """A Lorsa that starts from attention weights, on scaled activations; it reads and writes scaled ones."""
    origin, scales = Origin(attention=weights), (torch.tensor([1.7]), torch.tensor([0.6]))
    config = Lorsa.Config(n_features=n_features, **settings).completed(origin)
    lorsa = config.build(TopK.Config(k=min(4, n_features)), (IN,), (OUT,), {IN: x.shape[-1], OUT: target.shape[-1]})
    sample = Sample(x * scales[0], target * scales[1], *scales, origin)
    lorsa.initialize_(Initialization(), sample, torch.Generator().manual_seed(0))
    return lorsa


def toy(n_features: int = 24, n_heads: int = 3, seed: int = 0, **form: Any) -> Lorsa:
    """A Lorsa with random weights in float64."""
    config = Lorsa.Config.from_dict({"n_features": n_features, "n_heads": n_heads, "attention": FORM | form})
    lorsa = config.build(TopK.Config(k=5), (IN,), (OUT,), {IN: 10, OUT: 10}).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lorsa.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return lorsa


def sequences(*shape: int) -> Tensor:
    return torch.randn(*shape, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# -- the model's own heads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_a_full_width_start_from_one_head_is_that_head(name: str) -> None:
    lm = lm_of(name)
    weights = lm.attention(0)
    x, z, out = read(lm, some_tokens(lm, pos=20))
    for head in (0, weights.n_heads - 1):
        lorsa = start(weights.heads(head), x, out, weights.form.d_head)
        assert lorsa.n_heads == 1
        lorsa.fold_(1.7, 0.6)
        expected = z[:, :, head] @ weights.W_O[head]
        recon = lorsa.preacts(x) @ lorsa.W_dec + lorsa.b_dec
        torch.testing.assert_close(recon, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("name", KINDS)
def test_a_full_width_start_from_all_heads_is_the_attention(name: str) -> None:
    lm = lm_of(name)
    weights = lm.attention(0)
    x, _, out = read(lm, some_tokens(lm, pos=20))
    lorsa = start(weights, x, out, weights.n_heads * weights.form.d_head)
    lorsa.fold_(1.7, 0.6)
    recon = lorsa.preacts(x) @ lorsa.W_dec + lorsa.b_dec
    if weights.has_norm_behind:  # Gemma: one factor for each token
        recon, out = (t / t.norm(dim=-1, keepdim=True) for t in (recon, out))
    torch.testing.assert_close(recon, out, rtol=1e-5, atol=1e-5 * out.abs().max().item())


@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_features_start_in_what_their_head_reads_and_writes(name: str) -> None:
    lm = lm_of(name)
    weights = lm.attention(0)
    x, _, out = read(lm, some_tokens(lm, batch=4, pos=20))
    lorsa = start(weights, x, out, 96, n_heads=8)
    for head in range(weights.n_heads):
        features = slice(head * 24, head * 24 + 24)
        basis = torch.linalg.qr(weights.W_V[head]).Q
        encoder, decoder = lorsa.W_enc[:, features].T, lorsa.W_dec[features]
        torch.testing.assert_close(encoder @ basis @ basis.T, encoder, rtol=1e-4, atol=1e-5)
        along = torch.nn.functional.cosine_similarity(encoder @ weights.W_V[head] @ weights.W_O[head], decoder)
        torch.testing.assert_close(along, torch.ones(24), rtol=1e-4, atol=1e-4)
        for query_keys, own in ((lorsa.W_Q, weights.W_Q), (lorsa.W_K, weights.W_K)):
            torch.testing.assert_close(query_keys[2 * head] * 1.7, own[head])
            torch.testing.assert_close(query_keys[2 * head + 1], query_keys[2 * head])
    torch.testing.assert_close(lorsa.W_dec.norm(dim=1), torch.ones(96))
    step = lorsa(x * 1.7, out * 0.6)
    assert step.error.pow(2).sum() < (step.target - step.target.flatten(0, 1).mean(0)).pow(2).sum()


def test_heads_are_repeated_while_features_outnumber_values() -> None:
    origin = Origin(attention=model("llama").attention(0))  # 4 heads of width 8
    heads = {n: Lorsa.Config(n_features=n).completed(origin).n_heads for n in (16, 32, 64, 96, 256)}
    assert heads == {16: 4, 32: 4, 64: 8, 96: 12, 256: 32}


# -- the equations, written out ---------------------------------------------------------------------------------------


def preacts_by_hand(lorsa: Lorsa, x: Tensor) -> tuple[Tensor, Tensor]:
    """Contributions ``[feature, t, s]`` and pre-activations ``[t, feature]`` of one sequence, entry by entry."""
    form, T = lorsa.form, len(x)
    assert form.rotary is not None

    def vectors(weight: Tensor, bias: Tensor, gain: Tensor) -> list[Tensor]:
        rows = []
        for t in range(T):
            row = x[t] @ weight + bias
            row = row / torch.sqrt(sum(value**2 for value in row) / len(row) + form.norm_eps) * gain
            n = len(form.rotary.frequencies)
            for j, frequency in enumerate(form.rotary.frequencies):
                a, b = (j, j + n) if form.rotary.pairs == "halves" else (2 * j, 2 * j + 1)
                turned = complex(row[a], row[b]) * complex(math.cos(t * frequency), math.sin(t * frequency))
                row = row.clone()
                row[a], row[b] = turned.real, turned.imag
            rows.append(row)
        return rows

    contributions = torch.zeros(lorsa.n_features, T, T, dtype=x.dtype)
    for f in range(lorsa.n_features):
        h = f // (lorsa.n_features // lorsa.n_heads)
        q = vectors(lorsa.W_Q[h], lorsa.b_Q[h], lorsa.q_norm[h])
        k = vectors(lorsa.W_K[h], lorsa.b_K[h], lorsa.k_norm[h])
        for t in range(T):
            seen = [s for s in range(t + 1) if form.window is None or t - s < form.window]
            scores = [float(q[t] @ k[s]) / form.scale for s in seen]
            if form.softcap is not None:
                scores = [form.softcap * math.tanh(score / form.softcap) for score in scores]
            total = sum(math.exp(score) for score in scores)
            for s, score in zip(seen, scores, strict=True):
                value = x[s] @ lorsa.W_enc[:, f] + lorsa.b_enc[f]
                contributions[f, t, s] = math.exp(score) / total * value
    return contributions, contributions.sum(-1).T


@pytest.mark.parametrize(
    "form", [{}, {"rotary": FORM["rotary"] | {"pairs": "adjacent"}}, {"window": 3}, {"softcap": 2.0}]
)
@torch.no_grad()
def test_fused_preacts_and_contributions_are_the_sums_written_out(form: dict[str, Any]) -> None:
    lorsa, x = toy(n_features=6, **form), sequences(7)
    contributions, pre = preacts_by_hand(lorsa, x)
    torch.testing.assert_close(lorsa.preacts(x), pre)
    features = torch.tensor([4, 0, 5])
    torch.testing.assert_close(lorsa.contributions(x, features)[0], contributions[features])
    torch.testing.assert_close(lorsa.preacts_of(x, features), pre[:, features])


@torch.no_grad()
def test_contributions_sum_to_preacts_and_padding_contributes_nothing() -> None:
    lorsa, x = toy(), sequences(3, 9)
    real = torch.ones(3, 9, dtype=torch.bool)
    real[0, :4] = real[1, 7:] = False
    features = torch.randperm(24)[:10]
    contributions = lorsa.contributions(x, features, real)
    torch.testing.assert_close(contributions.sum(-1).transpose(1, 2), lorsa.preacts(x, real)[..., features])
    assert not contributions[0, :, 4:, :4].any()
    assert not contributions[1, :, :7, 7:].any()


@torch.no_grad()
def test_a_token_depends_on_no_later_one() -> None:
    lorsa, x = toy(), sequences(2, 9)
    before = lorsa.preacts(x)
    x[:, 6] += 1.0
    after = lorsa.preacts(x)
    assert torch.equal(after[:, :6], before[:, :6])
    assert not torch.isclose(after[:, 6:], before[:, 6:]).all(-1).any()


@pytest.mark.parametrize("form", [{}, {"window": 3}, {"softcap": 2.0}])
@torch.no_grad()
def test_padded_rows_are_the_rows_alone(form: dict[str, Any]) -> None:
    lorsa, x = toy(**form), sequences(1, 6)
    padding = torch.full((1, 4, 10), 50.0, dtype=torch.float64)
    alone = lorsa.preacts(x)
    for parts, at in (((padding, x), slice(4, 10)), ((x, padding), slice(0, 6))):
        real = torch.zeros(1, 10, dtype=torch.bool)
        real[:, at] = True
        padded = lorsa.preacts(torch.cat(parts, 1), real)
        torch.testing.assert_close(padded[:, at], alone)
        assert padded.isfinite().all()
    behind = lorsa.preacts(torch.cat([x, padding], 1))
    torch.testing.assert_close(behind[:, :6], alone)


def test_padding_reads_as_the_model_reads_it() -> None:
    lm = model("qwen3")
    tokens, mask = some_tokens(lm, batch=2, pos=12), torch.ones(2, 12, dtype=torch.bool)
    mask[0, :5] = False
    weights = lm.attention(0)
    x, _, out = read(lm, tokens, mask)
    lorsa = start(weights, x, out, weights.n_heads * weights.form.d_head)
    lorsa.fold_(1.7, 0.6)
    recon = lorsa.preacts(x, mask) @ lorsa.W_dec + lorsa.b_dec
    torch.testing.assert_close(recon[mask], out[mask], rtol=1e-4, atol=1e-4)


# -- files, sizes, refusals -------------------------------------------------------------------------------------------


def test_a_saved_one_reads_longer_contexts_than_it_was_trained_on(tmp_path: Path) -> None:
    lm = model("llama")
    weights = lm.attention(0)
    x, _, out = read(lm, some_tokens(lm, pos=8))
    lorsa = start(weights, x, out, 96)
    lorsa(x * 1.7, out * 0.6)
    lorsa.fold_(1.7, 0.6)
    lorsa.save(tmp_path / "lorsa")
    back = load(tmp_path / "lorsa")
    assert isinstance(back, Lorsa)
    assert back.config == lorsa.config
    longer, _, _ = read(lm, some_tokens(lm, pos=60))
    assert torch.equal(back(longer).recon, lorsa.frozen()(longer).recon)
    torch.testing.assert_close(back.preacts(longer)[:, :8], back.preacts(longer[:, :8]), rtol=1e-4, atol=1e-5)


def test_one_may_read_before_the_gain_of_its_norm_and_then_needs_to_be_told_its_form() -> None:
    lm, out = model("llama"), Site(0, "attn_out")
    before, after = Site(0, "attn_normalized"), Site(0, "attn_in")
    assert origin_of(lm, (after,), (out,)).attention is not None
    assert origin_of(lm, (before,), (out,)).attention is None, "its weights are for what the gain gives"
    form = {"kind": "lorsa", "n_features": 8, "n_heads": 2, "attention": {"d_head": 4, "scale": 2.0}}
    config, function = Wiring.from_dict(form), ActivationFunction.Config.from_dict({"kind": "topk", "k": 2})
    assert config.build(function, (before,), (out,), {before: 6, out: 6}).reads == (before,)
    for wrong in (Site(0, "resid_pre"), Site(1, "attn_normalized")):
        with pytest.raises(ConfigError, match="lorsa decomposes one attention layer"):
            config.build(function, (wrong,), (out,), {wrong: 6, out: 6})


class Largest(TorchDispatchMode):
    """Counts the entries of the largest tensor that any operation yields."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor):
                self.n = max(self.n, tensor.numel())
        return out


def test_no_tensor_of_features_by_positions_squared_exists() -> None:
    F, H, T = 96, 4, 48
    form = {"d_head": 6, "scale": 2.0, "rotary": {"frequencies": [0.9, 0.2]}}
    config = Lorsa.Config.from_dict({"n_features": F, "n_heads": H, "attention": form})
    lorsa = config.build(TopK.Config(k=5), (IN,), (OUT,), {IN: 10, OUT: 10})
    x = torch.randn(1, T, 10)
    with Largest() as seen:
        step = lorsa(x, x)
        (step.error.pow(2).sum() + step.preacts_of(torch.arange(0, F, 2)).sum()).backward()
    assert seen.n <= max(H * T * T, 2 * T * F)
    assert seen.n < F * T * T / 10


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "heads": ({"n_heads": 5, "n_features": 24}, "24 features do not form 5 groups"),
    "scale": ({"attention": {"d_head": 8, "scale": 0.0}}, "attention.scale"),
    "rotary": (
        {"attention": {"d_head": 2, "scale": 1.0, "rotary": {"frequencies": [1.0, 1.0]}}},
        "2 pairs, more than heads of width 2",
    ),
    "open": ({"n_features": 24}, "or a model to take them from"),
    "k": ({"n_features": 4, "n_heads": 2, "attention": FORM}, "k is 8, more than the dictionary's 4"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_meant_is_refused_before_anything_is_read(case: str) -> None:
    wiring, message = BAD[case]
    with pytest.raises(ConfigError, match=message):
        recipe = Recipe.from_dict({"wiring": {"kind": "lorsa"} | wiring, "function": {"kind": "topk", "k": 8}})
        recipe.build((IN,), (OUT,), {IN: 10, OUT: 10})


@pytest.mark.parametrize(
    ("reads", "writes"),
    [(["0.attn_in"], ["1.attn_out"]), (["0.resid_pre"], ["0.attn_out"]), (["0.attn_in"], ["0.mlp_out"]),
     (["0.attn_in@base"], ["0.attn_out"]), (["0.attn_out"], ["0.attn_out"]),
     (["0.attn_in", "1.attn_in"], ["0.attn_out"])],
)  # fmt: skip
def test_other_sites_are_refused(reads: list[str], writes: list[str]) -> None:
    config = Lorsa.Config.from_dict({"n_features": 24, "n_heads": 3, "attention": FORM})
    sites = [tuple(map(Site.parse, names)) for names in (reads, writes)]
    with pytest.raises(ConfigError, match=r"L\.attn_in.*L\.attn_out.*one layer"):
        config.build(TopK.Config(k=4), *sites, dict.fromkeys((*sites[0], *sites[1]), 10))


def test_prefixes_of_features_are_refused_as_a_loss() -> None:
    wiring = {"kind": "lorsa", "n_features": 24, "n_heads": 3, "attention": FORM}
    with pytest.raises(ConfigError, match="does not take a term 'matryoshka': its first features are those of its"):
        Recipe.from_dict({"wiring": wiring, "terms": {"reconstruction": {"kind": "matryoshka", "prefixes": [8, 24]}}})


def test_a_start_that_does_not_fit_the_model_is_refused() -> None:
    weights = model("llama").attention(0)
    x = torch.randn(1, 9, 32)
    with pytest.raises(ConfigError, match=r"30 features do not form groups for the 4 heads.*; 32 would"):
        Lorsa.Config(n_features=30).completed(Origin(attention=weights))
    with pytest.raises(ConfigError, match="takes a multiple of them"):
        start(weights, x, x, 96, n_heads=6)
    with pytest.raises(ConfigError, match="another form"):
        start(weights, x, x, 96, attention=weights.form.model_copy(update={"window": 3}))
    config = Lorsa.Config.from_dict({"n_features": 24, "n_heads": 3, "attention": FORM})
    lorsa = config.build(TopK.Config(k=4), (IN,), (OUT,), {IN: 10, OUT: 10})
    with pytest.raises(ConfigError, match="'model'.*takes the model"):
        lorsa.initialize_(
            Initialization(directions="model"), Sample.of(sequences(1, 9), sequences(1, 9)), torch.Generator()
        )
