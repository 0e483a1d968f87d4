from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from monoscope.core.site import Site
from monoscope.dictionaries import Autoencoder
from monoscope.dictionaries.variants import TopK
from monoscope.models import LanguageModel

D = 16


@pytest.fixture
def lm() -> LanguageModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=D,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=None,
    )
    return LanguageModel(LlamaForCausalLM(config))


@pytest.fixture
def tokens() -> Tensor:
    return torch.cat([torch.zeros(2, 1), torch.randint(1, 50, (2, 6))], dim=1).long()


def autoencoder(reads: str, writes: str, **options) -> Autoencoder:
    """A random TopK dictionary, ready for inference."""
    sites = Site.parse(reads), Site.parse(writes)
    config = Autoencoder.Config(n_features=40, **options)
    built = config.build(TopK.Config(k=5), sites[:1], sites[1:], dict.fromkeys(sites, D))
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return built.frozen()


@pytest.fixture
def sae() -> Autoencoder:
    return autoencoder("1.resid_post", "1.resid_post")


@pytest.fixture
def transcoder() -> Autoencoder:
    return autoencoder("1.mlp_in", "1.mlp_out", skip=True)


@pytest.fixture
def backwards() -> Autoencoder:
    return autoencoder("2.resid_post", "0.resid_post")
