"""End-to-end training: the KL between the model and the model with a reconstruction spliced in."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import ConfigError, MismatchError
from monoscope.core.site import Site
from monoscope.dictionaries import Recipe
from monoscope.harvest import SkipPolicy, TokenWindows, live, shuffle
from monoscope.interventions import patch
from monoscope.models import LanguageModel
from monoscope.training import train
from monoscope.training.downstream import SplicedModel

SITE = Site(0, "resid_post")
RECIPE = {
    "wiring": {"kind": "autoencoder", "n_features": 24},
    "function": {"kind": "topk", "k": 2},
    "terms": {"end_to_end": {"kind": "end_to_end"}},
}
FAST = {"tokens": 4096, "batch_tokens": 128, "log_every": 1, "seed": 0}


@cache
def strong_lm() -> LanguageModel:
    """Two layers with weights large enough for activations to matter."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=None,
    )
    return LanguageModel(LlamaForCausalLM(config), name="strong")


def windows(n: int = 32, context: int = 16) -> TokenWindows:
    """Random tokens, after a first one that opens each window."""
    tokens = torch.randint(3, 100, (n, context), generator=torch.Generator().manual_seed(1))
    tokens[:, 0] = 1
    return TokenWindows.from_tokens(tokens)


def batch() -> ActivationBatch:
    """One batch of the model reading."""
    return next(iter(live(strong_lm(), windows(), [SITE], windows_per_batch=8)))


def dictionary() -> object:
    """An untrained dictionary at the site."""
    return Recipe.from_dict(RECIPE).build((SITE,), (SITE,), {SITE: 16})


def test_the_model_with_its_own_activations_does_not_diverge() -> None:
    seen = batch()
    spliced = SplicedModel(strong_lm(), seen, dictionary(), torch.tensor([7.0]))
    same = seen.activations[SITE][seen.mask] * 7.0
    assert spliced.divergence(same).abs() < 1e-6


def test_divergence_is_the_kl_of_the_patched_model() -> None:
    lm, seen = strong_lm(), batch()
    generator = torch.Generator().manual_seed(2)
    recon = torch.randn(int(seen.mask.sum()), 16, generator=generator).requires_grad_()
    value = SplicedModel(lm, seen, dictionary(), torch.tensor([2.0])).divergence(recon)
    donor = seen.activations[SITE].clone()
    donor[seen.mask] = recon.detach() / 2
    tokens = seen.tokens.long()
    clean = lm.logits(tokens)[:, 1:-1].log_softmax(-1)
    with lm.edit(patch(SITE, donor)):
        changed = lm.logits(tokens)[:, 1:-1].log_softmax(-1)
    expected = torch.nn.functional.kl_div(changed, clean, log_target=True, reduction="none").sum(-1).mean()
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, recon)
    direction = torch.randn(recon.shape, generator=generator)
    spliced = SplicedModel(lm, seen, dictionary(), torch.tensor([2.0]))
    with torch.no_grad():
        ahead, behind = (spliced.divergence(recon + step * direction) for step in (1e-2, -1e-2))
    assert (ahead - behind) / 2e-2 == pytest.approx((gradient * direction).sum().item(), rel=2e-2)


def test_training_lowers_the_divergence_that_a_local_loss_leaves(tmp_path) -> None:
    lm = strong_lm()
    local = RECIPE | {"terms": {"reconstruction": {"kind": "fvu"}}}
    source = live(lm, windows(), [SITE])
    settings = FAST | {"tokens": 16_384, "optimizer": {"kind": "adam", "lr": 1e-2}}
    found = train([RECIPE, local], source, lm=lm, names=["end", "local"], out=tmp_path / "run", **settings)
    seen = batch()
    ends = []
    for trained in found:
        recon = trained(*trained.gather(seen), seen.mask).recon
        ends.append(SplicedModel(lm, seen, trained, torch.ones(1)).divergence(recon).item())
    assert ends[0] < 0.8 * ends[1]


def test_what_end_to_end_training_needs_is_named() -> None:
    lm, source = strong_lm(), live(strong_lm(), windows(), [SITE])
    with pytest.raises(ConfigError, match=r"asks the language model.*lm=lm"):
        train(RECIPE, source, **FAST)
    with pytest.raises(MismatchError, match="shuffled, token by token"):
        train(RECIPE, shuffle(source), lm=lm, **FAST)


def test_tokens_that_do_not_count_keep_their_activations() -> None:
    lm = strong_lm()
    seen = next(iter(live(lm, windows(), [SITE], windows_per_batch=8, skip=SkipPolicy(first=5))))
    zeros = torch.zeros(int(seen.mask.sum()), 16)
    spliced = SplicedModel(lm, seen, dictionary(), torch.ones(1))
    donor = seen.activations[SITE].clone()
    donor[:, 5:] = 0
    assert torch.equal(spliced._replaced(seen.activations[SITE], zeros), donor)
    everywhere = dataclasses.replace(seen, mask=None)
    assert (
        not SplicedModel(lm, everywhere, dictionary(), torch.ones(1))
        ._replaced(seen.activations[SITE], torch.zeros(8 * 16, 16))
        .any()
    )
