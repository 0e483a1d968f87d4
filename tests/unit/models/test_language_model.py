"""Names of sites, reads, edits and what is refused, on one small model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf
from torch import Tensor

from monoscope.core.errors import ConfigError, DataError, MismatchError, SiteError
from monoscope.core.site import Site
from monoscope.models import Edit, LanguageModel, current_positions
from monoscope.models.reference import rendered

SIZES = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4}
SIZES |= {"num_attention_heads": 2, "eos_token_id": None}


@pytest.fixture
def lm() -> LanguageModel:
    return LanguageModel(hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES)))


@pytest.fixture
def bart() -> LanguageModel:
    sizes = {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = hf.BartConfig(vocab_size=20, d_model=16, encoder_ffn_dim=24, decoder_ffn_dim=24, **sizes)
    return LanguageModel(hf.BartForConditionalGeneration(config))


@pytest.fixture
def unknown() -> LanguageModel:
    """A model of an architecture without a table."""
    config = hf.GPTJConfig(vocab_size=20, n_embd=16, n_layer=2, n_head=2, rotary_dim=8, n_positions=32)
    return LanguageModel(hf.GPTJForCausalLM(config))


def tokens(batch: int = 2, pos: int = 5) -> Tensor:
    return torch.randint(0, 20, (batch, pos))


def refusal(lm: LanguageModel, site: str) -> str:
    with pytest.raises(SiteError) as raised:
        lm.resolve(site)
    return str(raised.value)


# -- names ------------------------------------------------------------------------------------------------------------


def test_names_that_are_wrong(lm: LanguageModel) -> None:
    assert "the model has layers 0..3" in refusal(lm, "4.resid_post")
    assert "did you mean 'resid_post'" in refusal(lm, "2.resid_pots")
    assert "did you mean 'model.layers.2.mlp'" in refusal(lm, "model.layers.2.mpl:out")
    assert "one stack of layers; write '2.resid_post'" in refusal(lm, "encoder.2.resid_post")
    assert "set_attn_implementation('eager')" in refusal(lm, "0.pattern")


def test_transformer_lens_names_and_module_paths(lm: LanguageModel) -> None:
    assert lm.resolve("blocks.2.hook_resid_post") == Site(2, "resid_post")
    assert lm.resolve("hook_embed") == Site(None, "embed")
    assert lm.resolve("model.layers.2.mlp:in") == Site(None, "in", module="model.layers.2.mlp")


def test_two_stacks(bart: LanguageModel) -> None:
    assert bart.n_layers == 2
    assert "write 'encoder.0.resid_post' or 'decoder.0.resid_post'" in refusal(bart, "0.resid_post")
    assert "the decoder has layers 0..0" in refusal(bart, "decoder.1.resid_post")
    assert "a norm follows each addition" in refusal(bart, "encoder.0.resid_mid")
    assert "write 'logits'" in refusal(bart, "encoder.logits")
    stacks = {site.stack for site in bart.sites()}
    assert stacks == {"encoder", "decoder", ""}


def test_an_architecture_without_a_table_is_read_by_module_path(unknown: LanguageModel) -> None:
    assert unknown.sites() == []
    assert "name a module, as in 'transformer.h.0:out'" in refusal(unknown, "0.resid_post")
    assert unknown.width("transformer.h.1.mlp:out") == 16
    x = unknown.read(tokens(), ["transformer.h.0:out", "transformer.h.1:in"])
    first, second = x.values()
    assert torch.equal(first, second)
    with unknown.edit(Edit.at("transformer.h.0:out", torch.zeros_like)):
        assert unknown.read(tokens(), ["transformer.h.1:in"]).popitem()[1].abs().max() == 0
    assert unknown.generate(tokens(), max_new_tokens=2).shape == (2, 7)
    left = torch.tensor([[0, 0, 1, 1, 1]])
    padded = unknown.logits(torch.tensor([[0, 0, 5, 6, 7]]), left)[:, 2:]
    assert torch.allclose(padded, unknown.logits(torch.tensor([[5, 6, 7]])), atol=1e-5)


def test_pattern_only_under_eager_attention_and_never_edited(lm: LanguageModel) -> None:
    assert not any(site.kind == "pattern" for site in lm.sites())
    lm.hf.set_attn_implementation("eager")
    assert Site(0, "pattern") in lm.sites()
    with pytest.raises(SiteError, match="only be read"), lm.edit(Edit.at("0.pattern", lambda x: x)):
        pass
    with pytest.raises(SiteError, match="no width"):
        lm.width("0.pattern")


def test_every_value_of_the_interface(lm: LanguageModel) -> None:
    assert (lm.n_layers, lm.d_model, lm.vocab_size) == (4, 16, 20)
    assert (lm.device.type, lm.dtype, lm.bos_token_id) == ("cpu", torch.float32, 1)
    assert lm.context_length == 2048
    assert "llama, 4 layers, d=16" in repr(lm)
    assert [lm.width(site) for site in ("embed", "1.mlp_act", "logits")] == [16, 24, 20]


# -- reads ------------------------------------------------------------------------------------------------------------


def test_reads_come_in_the_order_asked_and_once(lm: LanguageModel) -> None:
    read = lm.read(tokens(), ["2.resid_post", Site(0, "mlp_out"), "2.resid_post"])
    assert list(read) == [Site(2, "resid_post"), Site(0, "mlp_out")]
    assert lm.read(tokens(), []) == {}


def test_modules_a_pass_does_not_go_through(lm: LanguageModel) -> None:
    with pytest.raises(SiteError, match=r"does not go through model\.layers:out"):
        lm.read(tokens(), ["0.resid_post", "model.layers:out"])


def test_modules_without_a_tensor(lm: LanguageModel) -> None:
    lm.hf.model.layers[0].extra = torch.nn.Identity()
    lm.hf.model.layers[0].register_forward_pre_hook(lambda module, args: module.extra("text") and None)
    for port in ("in", "out"):
        with pytest.raises(SiteError, match="tensor"):
            lm.read(tokens(), [f"model.layers.0.extra:{port}"])


@pytest.mark.parametrize(
    ("wrong", "mask", "expected"),
    [
        (torch.ones(3, dtype=torch.long), None, r"integers \[batch, pos\]"),
        (torch.ones(2, 3), None, r"integers \[batch, pos\]"),
        (torch.ones(2, 0, dtype=torch.long), None, r"integers \[batch, pos\]"),
        (torch.tensor([[3, 20]]), None, "token 20 is not among this model's 20"),
        (torch.tensor([[3, -1]]), None, "token -1 is not"),
        (torch.tensor([[3, 4]]), torch.ones(1, 3, dtype=torch.bool), r"mask has shape \[1, 3\]"),
        (torch.tensor([[3, 4], [5, 6]]), torch.tensor([[1, 1], [0, 0]]), "no token of row 1"),
    ],
)
def test_tokens_that_are_wrong(lm: LanguageModel, wrong: Tensor, mask: Tensor | None, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        lm._inputs.check(wrong, mask)


def test_rows_longer_than_learned_positions() -> None:
    config = hf.GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2, n_positions=8)
    lm = LanguageModel(hf.GPT2LMHeadModel(config))
    with pytest.raises(DataError, match="9 tokens, and this model has 8 positions"):
        lm.logits(tokens(1, 9))


def test_images_take_no_mask() -> None:
    config = hf.ViTConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    config.image_size, config.patch_size = 8, 4
    lm = LanguageModel(hf.ViTModel(config))
    assert (lm.context_length, lm.vocab_size) == (5, 0)
    with pytest.raises(DataError, match="take no mask"):
        lm._inputs.check(torch.zeros(1, 3, 8, 8), torch.ones(1, 3))
    with pytest.raises(DataError, match="reads images"):
        lm._inputs.check(tokens(), None)


# -- edits ------------------------------------------------------------------------------------------------------------


def test_an_edit_must_keep_the_shape_and_gets_the_dtype(lm: LanguageModel) -> None:
    narrower = Edit.at("1.mlp_out", lambda x: x[..., :3])
    with pytest.raises(MismatchError, match=r"given \[2, 5, 16\] and returned \[2, 5, 3\]"), lm.edit(narrower):
        lm.logits(tokens())
    site = Site(1, "mlp_out")
    with lm.edit(Edit(site, lambda x: x.double())):
        assert lm.read(tokens(), [site])[site].dtype == torch.float32


def test_edits_rest_while_widths_are_found(lm: LanguageModel) -> None:
    calls: list[Tensor] = []
    with lm.edit(Edit.at("0.mlp_out", calls.append)):
        lm.width("3.resid_post")
        assert calls == []
        lm.logits(tokens())
    assert len(calls) == 1


def test_gradients_through_two_edits_of_which_one_is_in_the_stream(lm: LanguageModel) -> None:
    """An edit in place keeps what autograd needs of the value it replaces."""
    shift = torch.zeros(16, requires_grad=True)
    earlier, later = Edit.at("0.mlp_out", lambda x: x + shift), Edit.at("1.resid_mid", lambda x: x.square() - x.exp())

    def loss() -> Tensor:
        with lm.edit(earlier, later):
            return lm.logits(torch.arange(10).view(2, 5)).square().mean()

    loss().backward()
    assert shift.grad is not None
    direction, step = shift.grad / shift.grad.norm(), 1e-2
    with torch.no_grad():
        ends = [loss() for sign in (1, -1) for _ in [shift.copy_(sign * step * direction)]]
    assert (ends[0] - ends[1]).item() / (2 * step) == pytest.approx(shift.grad.norm().item(), rel=0.05)


def test_a_leaf_in_the_stream_collects_gradient(lm: LanguageModel) -> None:
    leaves: list[Tensor] = []

    def leaf(x: Tensor) -> Tensor:
        leaves.append(x.detach().clone().requires_grad_())
        return leaves[-1]

    with lm.edit(Edit.at("1.resid_mid", leaf)):
        lm.logits(tokens()).sum().backward()
    assert leaves[0].grad is not None
    assert leaves[0].grad.abs().max() > 0


def test_positions_of_the_pass_under_way(lm: LanguageModel) -> None:
    seen: list[list[list[int]]] = []

    def note(x: Tensor) -> None:
        positions = current_positions()
        assert positions is not None
        seen.append(positions.tolist())

    with lm.edit(Edit.at("0.mlp_out", note)):
        lm.logits(tokens(1, 3))
        lm.logits(tokens(1, 4), torch.tensor([[0, 0, 1, 1]]))
        lm.generate(tokens(1, 3), max_new_tokens=3)
    assert seen == [[[0, 1, 2]], [[0, 0, 0, 1]], [[0, 1, 2]], [[3]], [[4]]]
    assert current_positions() is None


# -- generation -------------------------------------------------------------------------------------------------------


def test_draws_depend_on_their_seed_alone(lm: LanguageModel) -> None:
    prompt = tokens(3, 4)
    state = torch.get_rng_state()
    first = lm.generate(prompt, max_new_tokens=8, temperature=2.0, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(lm.generate(prompt, max_new_tokens=8, temperature=2.0, seed=7), first)
    assert not torch.equal(lm.generate(prompt, max_new_tokens=8, temperature=2.0, seed=8), first)
    unseeded = [lm.generate(prompt, max_new_tokens=8, temperature=2.0) for _ in range(2)]
    assert not torch.equal(*unseeded)


def test_top_k_draws_are_among_the_k_likeliest(lm: LanguageModel) -> None:
    prompt = tokens(1, 4).repeat(200, 1)
    drawn = lm.generate(prompt, max_new_tokens=1, temperature=100.0, top_k=3, seed=0)[:, -1]
    assert set(drawn.tolist()) == set(lm.logits(prompt[:1])[0, -1].topk(3).indices.tolist())
    assert torch.equal(
        lm.generate(prompt, max_new_tokens=2, temperature=5.0, top_k=1, seed=0), lm.generate(prompt, max_new_tokens=2)
    )


def test_each_row_stops_at_its_own_end(lm: LanguageModel) -> None:
    prompt = tokens(2, 4)
    free = lm.generate(prompt, max_new_tokens=9, temperature=3.0, seed=1)
    end = int(free[0, 6])
    lm.hf.generation_config.eos_token_id = [end]
    lm.hf.generation_config.pad_token_id = 0
    stopped = lm.generate(prompt, max_new_tokens=9, temperature=3.0, seed=1)
    for row in range(2):
        found = (free[row, 4:] == end).nonzero()
        n = int(found[0]) + 5 if len(found) else stopped.shape[1]
        assert torch.equal(stopped[row, :n], free[row, :n])
        assert (stopped[row, n:] == 0).all()
    lm.hf.generation_config.eos_token_id = list(range(20))
    assert lm.generate(prompt, max_new_tokens=9).shape == (2, 5)


def test_settings_that_are_wrong(lm: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        lm.generate(tokens(), max_new_tokens=1, temperature=-1.0)
    with pytest.raises(ConfigError, match="top_k"):
        lm.generate(tokens(), max_new_tokens=1, top_k=0)
    with pytest.raises(ConfigError, match="max_new_tokens"):
        lm.generate(tokens(), max_new_tokens=-1)
    assert lm.generate(tokens(2, 5), max_new_tokens=0).shape == (2, 5)


# -- documentation ----------------------------------------------------------------------------------------------------


def test_the_reference_page_is_what_the_tables_say() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "sites.md"
    assert page.read_text(encoding="utf-8") == rendered(), "run: python -m monoscope.models.reference"
