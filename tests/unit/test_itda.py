"""ITDA: dictionaries that grow from data, the tokens they remember, and models compared by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import ConfigError, DataError, MismatchError
from monoscope.core.site import Site
from monoscope.dictionaries import MatchingPursuit, Recipe, chance_jaccard, jaccard, load
from monoscope.harvest import from_array
from monoscope.harvest.source import ActivationSource
from monoscope.training import train
from monoscope.training.log import read_log

SITE = Site(0, "resid_post")


def recipe(tau: float = 0.1, k: int = 4, most: int = 400, method: str = "mp") -> dict[str, Any]:
    return {
        "wiring": {"kind": "itda", "n_features": most, "tau": tau},
        "function": {"kind": "pursuit", "k": k, "method": method},
    }


def grown(x: Tensor, batch_tokens: int = 64, tokens: int | None = None, **settings: Any) -> MatchingPursuit:
    source = from_array(x, SITE, batch_tokens=batch_tokens)
    dictionary = train(recipe(**settings), source, tokens=tokens or len(x), batch_tokens=batch_tokens, log_every=1)
    assert isinstance(dictionary, MatchingPursuit)
    return dictionary


def directions(n: int, d: int, seed: int = 0) -> Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def sparse_sums(n: int, d: int = 24, n_planted: int = 60, n_active: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1)
    chosen = torch.rand(n, n_planted, generator=generator).argsort(1)[:, :n_active]
    values = torch.rand(n, n_active, generator=generator) + 0.5
    return torch.zeros(n, n_planted).scatter(1, chosen, values) @ directions(n_planted, d, seed)


def test_noiseless_tokens_of_one_direction_each_give_exactly_the_planted_directions() -> None:
    planted = directions(40, 16)
    generator = torch.Generator().manual_seed(1)
    which = torch.cat([torch.arange(40), torch.randint(0, 40, (600,), generator=generator)])
    which = which[torch.randperm(640, generator=generator)]
    x = planted[which] * (torch.rand(640, 1, generator=generator) + 0.2)
    x[::9] *= -1  # a direction and its opposite are one feature, of either sign
    dictionary = grown(x, tau=1e-6)
    assert dictionary.n_features == 40
    assert ((dictionary.W_dec @ planted.T).abs().amax(1) > 1 - 1e-5).all()
    step = dictionary(x)
    torch.testing.assert_close(step.recon, x, rtol=0, atol=1e-5)
    assert (step.acts.l0() == 1).all()


def test_size_falls_as_tau_grows_and_error_falls_as_the_dictionary_grows() -> None:
    x = sparse_sums(1500)
    sizes = [grown(x, tau=tau).n_features for tau in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 3 * sizes[-1]
    fresh = sparse_sums(1000, seed=0)
    errors = [(grown(x, tau=0.02, most=most)(fresh).error.pow(2).sum()).item() for most in (10, 20, 40, 80, 160)]
    assert errors == sorted(errors, reverse=True)


def test_every_token_read_is_explained_up_to_tau() -> None:
    # Orthogonal choices in an orthogonal world: no later row makes an earlier token's decomposition worse.
    x = torch.eye(12)[torch.randint(0, 12, (200, 2), generator=torch.Generator().manual_seed(2))].sum(1)
    dictionary = grown(x, tau=0.05, k=12, method="omp")
    share = dictionary(x).error.pow(2).sum(1) / x.pow(2).sum(1)
    assert share.max() <= 0.05


def test_neither_repetitions_nor_the_size_of_a_batch_leave_copies() -> None:
    x = sparse_sums(150)
    repeated = x.repeat_interleave(4, dim=0)
    once, each = grown(x, tau=0.05), grown(repeated, tau=0.05)
    torch.testing.assert_close(once.W_dec, each.W_dec)
    for batch_tokens in (2, 7, 150):
        torch.testing.assert_close(grown(x, tau=0.05, batch_tokens=batch_tokens).W_dec, once.W_dec)
    cosine = (once.W_dec @ once.W_dec.T).fill_diagonal_(0)
    assert cosine.max() < (1 - 0.05) ** 0.5  # a token that one row explains to tau is not another row


def test_the_bound_on_features_holds_and_tokens_of_zero_add_none() -> None:
    x = sparse_sums(400)
    x[::5] = 0
    dictionary = grown(x, tau=0.02, most=17)
    assert dictionary.n_features == 17
    assert dictionary.config_dict()["wiring"]["n_features"] == 17
    assert (x[dictionary.get_parameter("origin")[:, 0]].norm(dim=1) > 0).all()
    with pytest.raises(DataError, match="zero"):
        grown(torch.zeros(64, 8))


def test_features_remember_the_tokens_they_are() -> None:
    x = sparse_sums(300)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 50, (300,), generator=generator)
    batches = [
        ActivationBatch({SITE: x[i : i + 100]}, tokens[i : i + 100], positions=torch.arange(i, i + 100))
        for i in (0, 100, 200)
    ]
    dictionary = grown_from(batches)
    place, token, position = dictionary.get_parameter("origin").T
    rows = x[place] / x[place].norm(dim=1, keepdim=True)
    torch.testing.assert_close(dictionary.W_dec, rows)
    assert torch.equal(token, tokens[place])
    assert torch.equal(position, place)


def grown_from(batches: list[ActivationBatch]) -> MatchingPursuit:
    from monoscope.dictionaries.normalize import Scale
    from monoscope.training import Training
    from monoscope.training.growth import Growth

    chosen = Recipe.from_dict(recipe(tau=0.05))
    dictionary = chosen.build((SITE,), (SITE,), {SITE: batches[0].activations[SITE].shape[-1]})
    assert isinstance(dictionary, MatchingPursuit)
    dictionary.resize_(0)
    run = Growth("", chosen, Training(), dictionary, {SITE: Scale(1.0)})
    for number, batch in enumerate(batches):
        run.advance(batch, number)
    return dictionary


def test_masked_tokens_are_passed_over() -> None:
    x = sparse_sums(120).view(6, 20, -1)
    mask = torch.rand(6, 20, generator=torch.Generator().manual_seed(4)) < 0.7
    masked = grown_from([ActivationBatch({SITE: x}, mask=mask)])
    torch.testing.assert_close(masked.W_dec, grown_from([ActivationBatch({SITE: x[mask]})]).W_dec)


def test_saving_loading_freezing_and_splitting_the_scale_change_nothing(tmp_path: Path) -> None:
    x = sparse_sums(400)
    plain = grown(x)
    plain.save(tmp_path / "plain")
    back = load(tmp_path / "plain")
    assert isinstance(back, MatchingPursuit)
    assert torch.equal(back.get_parameter("origin"), plain.get_parameter("origin"))
    assert torch.equal(back(x).recon, plain(x).recon)
    assert torch.equal(plain.frozen()(x).acts.dense(), plain(x).acts.dense())
    assert back.provenance["trained_as"]["wiring"]["n_features"] == 400

    scaled = train(
        recipe() | {"normalize": "dataset"}, from_array(x, SITE, batch_tokens=64), tokens=400, batch_tokens=64
    )
    assert scaled.n_features == plain.n_features
    torch.testing.assert_close(scaled(x).recon, plain(x).recon, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scaled(x).acts.dense() / scaled.acts_scale, plain(x).acts.dense(), rtol=1e-4, atol=1e-4)


def test_an_interrupted_run_resumes_to_the_same_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monoscope.training import growth

    x = sparse_sums(640)
    whole = grown(x, tau=0.03)
    advance = growth.Growth.advance

    def stop_at_four(self: Any, batch: ActivationBatch, number: int) -> None:
        advance(self, batch, number)
        if number == 3:
            import signal

            signal.raise_signal(signal.SIGINT)

    def source() -> ActivationSource:
        return from_array(x, SITE, batch_tokens=64)

    monkeypatch.setattr(growth.Growth, "advance", stop_at_four)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(tau=0.03), source(), tokens=640, batch_tokens=64, out=tmp_path / "d")
    monkeypatch.undo()
    resumed = train(recipe(tau=0.03), source(), tokens=640, batch_tokens=64, out=tmp_path / "d", resume=True)
    assert torch.equal(resumed.get_parameter("W_dec"), whole.W_dec)
    assert torch.equal(resumed.get_parameter("origin"), whole.get_parameter("origin"))
    rows = read_log(tmp_path / "d" / "metrics.jsonl")
    assert rows[-1]["n_features"] == whole.n_features


def test_one_model_seen_through_a_rotation_keeps_the_same_tokens() -> None:
    x = sparse_sums(800)
    rotation = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(5)))[0]
    assert jaccard(grown(x), grown(x @ rotation)) == 1.0


def test_models_that_share_nothing_keep_the_tokens_of_chance() -> None:
    random = [
        grown(torch.randn(3000, 16, generator=torch.Generator().manual_seed(seed)), tau=0.45, k=3) for seed in range(4)
    ]
    pairs = [(a, b) for i, a in enumerate(random) for b in random[:i]]
    found = torch.tensor([jaccard(a, b) for a, b in pairs]).mean()
    expected = torch.tensor([chance_jaccard(a, b) for a, b in pairs]).mean()
    assert abs(found - expected) < 0.03  # near 0.2: the first tokens of a stream are kept by every model
    related = jaccard(random[0], random[0])
    assert related == 1.0 > 3 * expected


def test_dictionaries_of_other_tokens_are_not_compared() -> None:
    x = sparse_sums(640)
    a = grown(x)
    with pytest.raises(MismatchError, match="rows was 640 for one and 512 for the other"):
        jaccard(a, grown(x[:512]))
    with pytest.raises(MismatchError, match="tokens was 640 for one and 320"):
        jaccard(a, grown(x, tokens=320))
    chosen = {"wiring": {"kind": "matching_pursuit", "n_features": 30}, "function": {"kind": "pursuit", "k": 3}}
    with pytest.raises(MismatchError, match="keeps none"):
        jaccard(a, train(chosen, from_array(x, SITE), tokens=128, batch_tokens=64))
    other = grown(x)
    with torch.no_grad():
        other.get_parameter("origin")[5, 1] = 77
    with pytest.raises(MismatchError, match="not the same in both: token -1, position -1, and token 77"):
        jaccard(a, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"function": {"kind": "topk", "k": 3}}, "takes a function of kind 'pursuit', found 'topk'"),
        ({"terms": {"reconstruction": {"kind": "fvu"}}}, "takes terms of kind none, found 'fvu'"),
        ({"wiring": {"kind": "itda", "tau": 0.0}}, "tau"),
        ({"wiring": {"kind": "autoencoder"}}, "belongs to a wiring of kind 'itda' or 'matching_pursuit'"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe.from_dict(recipe() | change)


def test_sites_and_schedules_that_do_not_fit_are_refused() -> None:
    out = Site(0, "mlp_out")
    with pytest.raises(ConfigError, match="writes where it reads; found reads 0.resid_post and writes 0.mlp_out"):
        Recipe.from_dict(recipe()).build((SITE,), (out,), {SITE: 8, out: 8})
    with pytest.raises(ConfigError, match="nothing to schedule"):
        train(
            recipe(),
            from_array(sparse_sums(64), SITE),
            schedules={"function.k": {"kind": "anneal", "start": 2.0, "over": 0.5}},
        )


def test_a_pursuit_is_no_function_of_preacts() -> None:
    dictionary = grown(sparse_sums(200))
    with pytest.raises(NotImplementedError, match="use encode"):
        dictionary.activation(torch.zeros(1, dictionary.n_features))
