"""Normalizers: each as its source computes it, and what that asks of a dictionary."""

from __future__ import annotations

import pytest
import torch
from dictionary_cases import IN, OUT, WIRINGS, build, data

from monoscope.core.errors import ConfigError
from monoscope.dictionaries import Autoencoder, Wiring
from monoscope.dictionaries.normalizer import EPS, normalized
from monoscope.dictionaries.variants import TopK

X = torch.randn(5, 7, 12, generator=torch.Generator().manual_seed(0)) * 3 + 1


def test_layer_norm_has_an_unbiased_deviation_and_eps_outside() -> None:
    z, frame = normalized(X, "layer_norm", EPS)
    x = X.double().numpy()
    mean, deviation = x.mean(-1, keepdims=True), x.std(-1, ddof=1, keepdims=True)
    torch.testing.assert_close(z.double(), torch.from_numpy((x - mean) / (deviation + 1e-5)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(frame.restored(z), X, rtol=1e-4, atol=1e-4)


def test_token_norm_leaves_norms_of_the_root_of_the_width_and_zeros() -> None:
    x = X.clone()
    x[2, 3] = 0
    z, frame = normalized(x, "token_norm", EPS)
    norms = z.norm(dim=-1)
    assert norms[2, 3] == 0
    norms[2, 3] = 12**0.5
    torch.testing.assert_close(norms, torch.full((5, 7), 12**0.5))
    torch.testing.assert_close(frame.restored(z), x)


def test_center_takes_the_mean_over_the_width() -> None:
    z, frame = normalized(X, "center", EPS)
    torch.testing.assert_close(z.mean(-1), torch.zeros(5, 7), atol=1e-6, rtol=0)
    torch.testing.assert_close(frame.restored(z), X)
    assert torch.equal(frame.scaled(z), z)


@pytest.mark.parametrize(("wiring", "scale", "shift"), [("layer_norm", 2.5, 1.5), ("token_norm", 2.5, 0.0)])
def test_reconstructions_follow_what_is_taken_off(wiring: str, scale: float, shift: float) -> None:
    dictionary = build("topk", wiring, dtype=torch.float64).eval()
    x, _ = data(wiring, dictionary)
    dictionary.config = dictionary.config.model_copy(update={"normalizer_eps": 1e-300})
    before, after = dictionary(x), dictionary(scale * x + shift)
    torch.testing.assert_close(after.recon, scale * before.recon + shift)
    torch.testing.assert_close(after.acts.dense(), before.acts.dense())


def test_decoding_without_x_says_what_is_missing() -> None:
    dictionary = build("topk", "layer_norm").eval()
    x, _ = data("layer_norm", dictionary)
    with pytest.raises(ValueError, match=r"normalizer decodes from its activations and x; pass decode\(acts, x\)"):
        dictionary.decode(dictionary.encode(x))
    transcoder = build("topk", "normalized_skip").eval()
    x, target = data("normalized_skip", transcoder)
    skip = transcoder.W_skip
    assert skip is not None
    transcoder.W_skip = None
    recon = transcoder.decode(transcoder.encode(x))
    torch.testing.assert_close(transcoder(x, target).recon, recon)
    transcoder.W_skip = skip
    torch.testing.assert_close(transcoder(x, target).recon, recon + x @ skip)


def test_wirings_say_whether_they_encode_linearly() -> None:
    said = {name: Wiring.from_dict(case.wiring).encodes_linearly for name, case in WIRINGS.items()}
    kinds = {name: case.wiring["kind"] for name, case in WIRINGS.items()}
    bent = {"glu", "layer_norm", "token_norm", "mean_centered", "normalized_skip"}  # mean_centered has a GLU too
    bent |= {name for name, kind in kinds.items() if kind in ("matching_pursuit", "lorsa")}
    assert {name for name, linear in said.items() if not linear} == bent
    assert Autoencoder.Config(normalizer="center").encodes_linearly


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ConfigError, match="a skip would add again"):
        Autoencoder.Config(n_features=8, skip=True, normalizer="center").build(TopK.Config(k=2), (IN,), (IN,), {IN: 4})
    with pytest.raises(ConfigError, match="normalizer"):
        Wiring.from_dict({"kind": "autoencoder", "normalizer": "rms"})
    with pytest.raises(ConfigError, match="leave the normalizer out"):
        from monoscope.dictionaries.initialize import Initialization, Sample

        config = Autoencoder.Config(n_features=8, normalizer="center")
        dictionary = config.build(TopK.Config(k=2), (IN,), (OUT,), {IN: 4, OUT: 4})
        sample = Sample.of(torch.randn(9, 4), torch.randn(9, 4))
        dictionary.initialize_(Initialization(directions="model"), sample, torch.Generator())
