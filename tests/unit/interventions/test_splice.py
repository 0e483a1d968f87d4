from __future__ import annotations

import pytest
import torch

from monoscope.core.errors import ConfigError, MismatchError
from monoscope.interventions import patch, splice


@pytest.fixture(params=["sae", "transcoder", "both"])
def dictionaries(request, sae, transcoder):
    return {"sae": [sae], "transcoder": [transcoder], "both": [transcoder, sae]}[request.param]


@pytest.mark.parametrize("error", ["keep", "leaf"])
@pytest.mark.parametrize("skip_first", [0, 1])
def test_with_the_error_kept_logits_are_the_models(lm, dictionaries, tokens, error, skip_first):
    with lm.edit(splice(*dictionaries, error=error, skip_first=skip_first)):
        spliced = lm.logits(tokens)
    torch.testing.assert_close(spliced, lm.logits(tokens), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["sae", "transcoder"])
def test_with_the_error_dropped_the_reconstruction_stands_at_the_site(lm, tokens, name, request):
    dictionary = request.getfixturevalue(name)
    (read,), (write,) = dictionary.reads, dictionary.writes
    clean = lm.read(tokens, [read, write])
    recon = dictionary(clean[read]).recon
    with lm.edit(splice(dictionary, error="drop")):
        seen = lm.read(tokens, [write])[write]
        logits = lm.logits(tokens)
    torch.testing.assert_close(seen[:, 1:], recon[:, 1:])
    assert torch.equal(seen[:, 0], clean[write][:, 0])
    assert not torch.allclose(logits[:, 1:], lm.logits(tokens)[:, 1:], atol=1e-2)
    with lm.edit(splice(dictionary, error="drop", skip_first=0)):
        torch.testing.assert_close(lm.read(tokens, [write])[write], recon)


def test_as_a_leaf_the_error_passes_no_gradient(lm, sae, tokens):
    upstream = lm.read(tokens, ["0.resid_post"])[lm.resolve("0.resid_post")]

    def gradient(error: str, dictionary, skip_first: int) -> torch.Tensor:
        x = upstream.clone().requires_grad_()
        with lm.edit(patch("0.resid_post", x), splice(dictionary, error=error, skip_first=skip_first)):
            lm.logits(tokens)[:, -1].square().sum().backward()
        return x.grad

    silent = sae.frozen()
    silent.b_enc.data.fill_(-1e3)
    assert (gradient("leaf", silent, 0) == 0).all()
    assert (gradient("leaf", silent, 1) == 0).all()
    assert (gradient("keep", silent, 1) != 0).any()
    through_features = gradient("leaf", sae, 1)
    assert (through_features[:, 1:] != 0).any()


def test_as_a_leaf_the_gradient_is_that_of_the_dropped_splice_at_the_models_own_values(lm, sae, tokens):
    """d(recon + constant)/dx = d(recon)/dx: compared with a linear readout, where values downstream do not matter."""
    site = sae.writes[0]
    x = lm.read(tokens, [site])[site]
    readout = torch.randn(16)

    def gradient(edits) -> torch.Tensor:
        leaf = x.clone().requires_grad_()
        (edits[0].fn(leaf) @ readout).sum().backward()
        return leaf.grad

    torch.testing.assert_close(gradient(splice(sae, error="leaf")), gradient(splice(sae, error="drop")))


def test_features_of_a_spliced_dictionary_have_gradients(lm, sae, tokens):
    sae.requires_grad_(True)
    with lm.edit(splice(sae, error="leaf")):
        lm.logits(tokens).square().mean().backward()
    assert sae.W_dec.grad.abs().sum() > 0
    assert sae.W_enc.grad.abs().sum() > 0


def test_no_hook_is_left(lm, transcoder, tokens):
    before = lm.logits(tokens)
    with lm.edit(splice(transcoder, error="drop")):
        lm.logits(tokens)
    assert torch.equal(lm.logits(tokens), before)


def test_mistakes(sae):
    with pytest.raises(ConfigError, match="found 'dropped'; did you mean 'drop'"):
        splice(sae, error="dropped")
    with pytest.raises(MismatchError, match=r"2 dictionaries write at 1\.resid_post"):
        splice(sae, sae)
