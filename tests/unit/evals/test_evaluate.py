from __future__ import annotations

import json

import pytest
import torch
from tiny_text_model import TEXT, tiny_lm
from torch import Tensor

from monoscope.core.errors import DataError, MismatchError, UserError
from monoscope.core.site import Site
from monoscope.dictionaries import Autoencoder, Crosscoder, CrossLayer
from monoscope.dictionaries.variants import JumpReLU, TopK
from monoscope.evals import Evaluation, evaluate
from monoscope.harvest import SkipPolicy, TokenWindows, live
from monoscope.interventions import splice

SITE = "1.resid_post"


@pytest.fixture
def lm():
    return tiny_lm()


@pytest.fixture
def windows(lm) -> TokenWindows:
    return TokenWindows.from_text(TEXT, lm.tokenizer, context=24)


def autoencoder(reads: str = SITE, writes: str = SITE, n_features: int = 32) -> Autoencoder:
    sites = Site.parse(reads), Site.parse(writes)
    config = Autoencoder.Config(n_features=n_features, center=False, unit_norm=False)
    built = config.build(TopK.Config(k=4), sites[:1], sites[1:], dict.fromkeys(sites, 16))
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return built.frozen()


def identity() -> Autoencoder:
    """W_enc = [I, -I], W_dec its transpose, ReLU: reconstructs anything exactly."""
    sites = (Site.parse(SITE),)
    config = Autoencoder.Config(n_features=32, center=False)
    built = config.build(JumpReLU.Config(), sites, sites, {sites[0]: 16})
    eye = torch.cat([torch.eye(16), -torch.eye(16)])
    built.W_dec.data, built.W_enc.data = eye, eye.T
    for parameter in built.activation.parameters():
        parameter.data.fill_(0)
    return built.frozen()


def close(one: Evaluation, other: Evaluation, rel: float = 1e-5) -> None:
    for part in ("fidelity", "firing", "losses"):
        a, b = one.to_dict()[part], other.to_dict()[part]
        assert a == pytest.approx(b, rel=rel, abs=1e-6), part


def test_an_identity_dictionary_loses_nothing(lm, windows):
    result = evaluate(lm, identity(), windows)
    assert result.fidelity.ev == pytest.approx(1)
    assert result.firing.l0 == pytest.approx(16)
    assert result.losses.ce_spliced == pytest.approx(result.losses.ce_clean)
    assert result.losses.kl_spliced == pytest.approx(0, abs=1e-6)
    for name in ("ce_recovered_zero", "ce_recovered_mean", "kl_recovered_zero", "kl_recovered_mean"):
        assert getattr(result.losses, name) == pytest.approx(1, abs=1e-4)


def test_a_dictionary_of_zeros_recovers_nothing(lm, windows):
    zero = identity()
    zero.W_dec.zero_()
    result = evaluate(lm, zero, windows)
    assert result.fidelity.ev <= 0
    assert result.fidelity.nmse == pytest.approx(1)
    assert result.losses.ce_recovered_zero == pytest.approx(0)
    assert result.losses.kl_recovered_zero == pytest.approx(0)
    assert result.losses.ce_spliced == result.losses.ce_zero


def test_a_dictionary_of_the_mean_recovers_nothing_of_mean_ablation(lm, windows):
    site = Site.parse(SITE)
    mean = identity()
    mean.W_dec.zero_()
    counts = windows.mask & ~torch.isin(windows.tokens, torch.tensor(lm.tokenizer.all_special_ids))
    mean.b_dec.copy_(lm.read(windows.tokens, [site], windows.mask)[site][counts].mean(0))
    result = evaluate(lm, mean, windows)
    assert result.fidelity.ev == pytest.approx(0, abs=1e-6)
    assert result.losses.ce_recovered_mean == pytest.approx(0, abs=1e-4)
    assert result.losses.kl_recovered_mean == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("sites", [(SITE, SITE), ("1.mlp_in", "1.mlp_out")])
def test_spliced_loss_is_that_of_the_spliced_model(lm, sites):
    tokens = torch.randint(3, 300, (3, 12))
    dictionary = autoencoder(*sites)
    result = evaluate(lm, dictionary, TokenWindows.from_tokens(tokens))

    def loss(logits: Tensor) -> float:
        return torch.nn.functional.cross_entropy(logits[:, 1:-1].flatten(0, 1), tokens[:, 2:].flatten()).item()

    with lm.edit(splice(dictionary, error="drop")):
        spliced = lm.logits(tokens)
    assert result.losses.n_predictions == 3 * 10
    assert result.losses.ce_clean == pytest.approx(loss(lm.logits(tokens)), rel=1e-5)
    assert result.losses.ce_spliced == pytest.approx(loss(spliced), rel=1e-5)
    read = lm.read(tokens, [*dictionary.reads, *dictionary.writes])
    x, target = (read[site][:, 1:].flatten(0, 1) for site in (dictionary.reads[0], dictionary.writes[0]))
    recon = dictionary(x).recon
    fvu = (target - recon).square().sum() / (target - target.mean(0)).square().sum()
    assert result.fidelity.fvu == pytest.approx(fvu.item(), rel=1e-4)
    assert result.firing.l0 == pytest.approx(dictionary.encode(x).l0().float().mean().item(), rel=1e-6)


def test_results_do_not_depend_on_the_batch_or_the_order(lm, windows):
    dictionary = autoencoder()
    whole = evaluate(lm, dictionary, windows, batch=100)
    close(evaluate(lm, dictionary, windows, batch=1), whole)
    close(evaluate(lm, dictionary, windows.shuffled(0), batch=3), whole)


def test_results_do_not_depend_on_the_order_or_scale_of_features(lm, windows):
    dictionary = autoencoder()
    whole = evaluate(lm, dictionary, windows)
    order = torch.randperm(32)
    for name, axis in dictionary.feature_axes.items():
        parameter = getattr(dictionary, name)
        parameter.copy_(parameter.index_select(axis, order))
    close(evaluate(lm, dictionary, windows), whole)
    rescaled = identity()
    before = evaluate(lm, rescaled, windows)
    rescaled.W_enc.mul_(4)
    rescaled.W_dec.div_(4)
    close(evaluate(lm, rescaled, windows), before)


def test_tokens_that_do_not_count_enter_nothing(lm, windows):
    dictionary = autoencoder()
    result = evaluate(lm, dictionary, windows)
    specials = torch.isin(windows.tokens, torch.tensor(lm.tokenizer.all_special_ids)) & windows.mask
    assert result.excluded["special"] == int(specials.sum())
    assert result.excluded["padding"] == int((~windows.mask).sum()) > 0
    assert result.fidelity.n_tokens == windows.n_tokens - int(specials.sum())
    elsewhere = TokenWindows(
        windows.tokens.masked_fill(~windows.mask, 7), windows.mask, windows.documents, windows.info
    )
    close(evaluate(lm, dictionary, elsewhere), result)
    more = evaluate(lm, dictionary, windows, skip=SkipPolicy(first=3))
    assert more.fidelity.n_tokens < result.fidelity.n_tokens


def test_special_tokens_are_measured_apart_where_they_count(lm, windows):
    dictionary = autoencoder()
    assert evaluate(lm, dictionary, windows).special is None
    both = evaluate(lm, dictionary, windows, skip=SkipPolicy(special=False))
    assert both.special is not None
    assert both.other is not None
    assert both.special.n_tokens + both.other.n_tokens == both.fidelity.n_tokens
    site = dictionary.reads[0]
    is_special = torch.isin(windows.tokens, torch.tensor([0, 1, 2])) & windows.mask
    is_special[:, 0] = False
    x = lm.read(windows.tokens, [site], windows.mask)[site][is_special]
    error = (x - dictionary(x).recon).square().sum()
    assert both.special.fvu == pytest.approx((error / (x - x.mean(0)).square().sum()).item(), rel=1e-4)
    assert "fvu by kind" in str(both)


def test_conversations_are_measured_without_their_padding(lm):
    made = TokenWindows.from_sequences([text * n for n, text in enumerate(TEXT, 1)], lm.tokenizer, context=40)
    short_first = made[torch.argsort(made.mask.sum(1))]
    wide = TokenWindows(made.tokens, made.mask, made.documents, {})
    dictionary = autoencoder()
    skip = SkipPolicy(special=True)
    close(
        evaluate(lm, dictionary, short_first, batch=2, skip=skip), evaluate(lm, dictionary, wide, batch=100, skip=skip)
    )


def test_a_window_in_which_no_token_counts(lm, windows):
    dictionary = autoencoder()
    empty = TokenWindows.from_tokens(torch.cat([windows.tokens, torch.ones(1, 24, dtype=torch.int32)]).long())
    with_padding = TokenWindows(empty.tokens, torch.cat([windows.mask, torch.ones(1, 24).bool()]), empty.documents)
    close(evaluate(lm, dictionary, with_padding, batch=1), evaluate(lm, dictionary, windows))


def test_the_record_is_json_and_a_table(lm, windows):
    dictionary = autoencoder()
    assert evaluate(lm, dictionary, windows).same_model is None
    dictionary.provenance = {"source": {"model": {"fingerprint": lm.fingerprint()}}}
    result = evaluate(lm, dictionary, windows)
    assert result.same_model is True
    read_back = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert read_back == result.to_dict()
    assert read_back["reads"] == [SITE]
    table = str(result)
    assert f"ce recovered  {result.losses.ce_recovered_zero:.4g}, {result.losses.ce_recovered_mean:.4g}" in table
    assert table.startswith("1.resid_post of tiny,")


def test_what_cannot_be_evaluated_says_why(lm, windows):
    wide = Autoencoder.Config(n_features=8).build(
        TopK.Config(k=2), (Site.parse(SITE),), (Site.parse(SITE),), {Site.parse(SITE): 12}
    )
    with pytest.raises(MismatchError, match=r"the dictionary has 12 values at 1.resid_post, and tiny has 16"):
        evaluate(lm, wide.frozen(), windows)
    with pytest.raises(DataError, match="no token of these windows counts"):
        evaluate(lm, autoencoder(), windows, skip=SkipPolicy(first=24))
    with pytest.raises(DataError, match="the windows hold 2 tokens"):
        evaluate(lm, autoencoder(), TokenWindows.from_tokens(torch.randint(3, 300, (3, 2))))


MLP_IN, MLP_OUT, RESID = (tuple(Site(layer, kind) for layer in (0, 1)) for kind in ("mlp_in", "mlp_out", "resid_post"))


def randomized(built):
    generator = torch.Generator().manual_seed(0)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return built.frozen()


def test_layers_are_spliced_together_and_read_what_earlier_ones_made(lm, windows):
    config = CrossLayer.Config(n_features=24)
    clt = randomized(config.build(TopK.Config(k=3), MLP_IN, MLP_OUT, dict.fromkeys((*MLP_IN, *MLP_OUT), 16)))
    result = evaluate(lm, clt, windows, batch=len(windows))
    assert result.rereads
    tokens, mask = windows.tokens.long(), windows.mask
    batch = next(iter(live(lm, windows, [*MLP_IN, *MLP_OUT], windows_per_batch=len(windows))))
    counts = batch.mask
    assert counts is not None
    step = clt(*clt.gather(batch.flat()))
    assert result.by_site is not None
    error = step.error.square().sum((0, 2))
    for number, (site, found) in enumerate(result.by_site.items()):
        y = step.target[:, number]
        assert site == str(MLP_OUT[number])
        assert found.fvu == pytest.approx((error[number] / (y - y.mean(0)).square().sum()).item(), rel=1e-4)
    y = step.target
    assert result.fidelity.fvu == pytest.approx((error.sum() / (y - y.mean(0)).square().sum()).item(), rel=1e-4)
    with lm.edit(splice(clt, error="drop", skip_first=0, where=counts)):
        logits = lm.logits(tokens, mask)
    predicts = counts[:, :-1] & mask[:, 1:]
    ce = torch.nn.functional.cross_entropy(logits[:, :-1][predicts], tokens[:, 1:][predicts])
    assert result.losses.ce_spliced == pytest.approx(ce.item(), rel=1e-4)
    assert "fvu by site" in str(result)


def test_a_crosscoder_of_layers_is_spliced_at_all_of_them(lm, windows):
    config = Crosscoder.Config(n_features=24, gate="per_site")
    found = randomized(config.build(TopK.Config(k=3), RESID, RESID, dict.fromkeys(RESID, 16)))
    result = evaluate(lm, found, windows)
    last = autoencoder("1.resid_post", "1.resid_post", 24)
    assert not result.rereads
    assert result.losses.ce_zero == pytest.approx(evaluate(lm, last, windows).losses.ce_zero, rel=1e-5)
    assert 3 <= result.firing.l0 <= 6


def test_of_several_models_one_is_evaluated(lm, windows):
    sites = tuple(Site(1, "resid_post", model=label) for label in ("base", "tuned"))
    other = tiny_lm(seed=1)
    found = randomized(Crosscoder.Config(n_features=24).build(TopK.Config(k=3), sites, sites, dict.fromkeys(sites, 16)))
    lms = {"base": lm, "tuned": other}
    results = {label: evaluate(lms, found, windows, model=label) for label in lms}
    for label, result in results.items():
        assert result.label == label
        assert result.by_site is None
        alone = evaluate(lms[label], autoencoder("1.resid_post", "1.resid_post"), windows)
        assert result.losses.ce_clean == pytest.approx(alone.losses.ce_clean)
        assert result.losses.ce_zero == pytest.approx(alone.losses.ce_zero)
    assert results["base"].fidelity.fvu != results["tuned"].fidelity.fvu
    with pytest.raises(UserError, match="writes in the models 'base', 'tuned'; name the one"):
        evaluate(lms, found, windows)
    with pytest.raises(MismatchError, match="'tuned' is not given"):
        evaluate(lm, found, windows, model="base")
