"""Cross-layer transcoders: what they reduce to, what leaves them unchanged, what they hold in memory, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from monoscope.core.acts import Acts
from monoscope.core.errors import ConfigError
from monoscope.core.site import Site
from monoscope.dictionaries import Autoencoder, CrossLayer, Recipe
from monoscope.dictionaries.initialize import Sample
from monoscope.dictionaries.objective import SquaredError
from monoscope.ops import blocks

D_IN, D_OUT, F, N = 8, 6, 20, 50
TOPK = {"kind": "topk", "k": 3}
FVU = {"reconstruction": {"kind": "fvu"}}
SOFT = {"reconstruction": {"kind": "squared_error"}, "sparsity": {"kind": "l1"}}


def sites(n_layers: int) -> tuple[tuple[Site, ...], tuple[Site, ...]]:
    reads, writes = (tuple(Site(layer, kind) for layer in range(n_layers)) for kind in ("mlp_in", "mlp_out"))
    return reads, writes


def inputs(n_layers: int, n: int = N, d_in: int = D_IN, d_out: int = D_OUT) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, target = (torch.randn(n, n_layers, d, generator=generator) for d in (d_in, d_out))
    return (x[:, 0], target[:, 0]) if n_layers == 1 else (x, target)


def build(n_layers: int = 3, function: dict[str, Any] = TOPK, terms: dict[str, Any] = FVU, **wiring: Any) -> CrossLayer:
    table = {"wiring": {"kind": "cross_layer", "n_features": F} | wiring, "function": function, "terms": terms}
    recipe = Recipe.from_dict(table)
    reads, writes = sites(n_layers)
    found = recipe.build(reads, writes, dict.fromkeys(reads, D_IN) | dict.fromkeys(writes, D_OUT))
    assert isinstance(found, CrossLayer)
    x, target = inputs(n_layers)
    generator = torch.Generator().manual_seed(0)
    found.initialize_(recipe.initialize, Sample.of(x, target, n_layers, n_layers), generator)
    with torch.no_grad():
        for bias in found.b_enc:
            bias.add_(0.3 * torch.randn(bias.shape, generator=generator))
    return found


def transcoders(clt: CrossLayer, function: dict[str, Any], terms: dict[str, Any]) -> list[Autoencoder]:
    """Transcoders of each layer with the same weights."""
    wiring = {"kind": "autoencoder", "n_features": F, "scale_by_decoder_norm": True, "skip": clt.config.skip}
    recipe = Recipe.from_dict({"wiring": wiring, "function": function, "terms": terms})
    found = []
    for layer, (read, write) in enumerate(zip(clt.reads, clt.writes, strict=True)):
        own = recipe.build((read,), (write,), {read: D_IN, write: D_OUT})
        assert isinstance(own, Autoencoder)
        with torch.no_grad():
            own.W_enc.copy_(clt.W_enc[layer])
            own.b_enc.copy_(clt.b_enc[layer])
            own.W_dec.copy_(clt.W_dec[layer][:, 0])
            own.b_dec.copy_(clt.b_dec[layer])
            if own.W_skip is not None and clt.W_skip is not None:
                own.W_skip.copy_(clt.W_skip[layer])
        found.append(own.train())
    return found


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    ("function", "terms"),
    [
        (TOPK, FVU),
        ({"kind": "batch_topk", "k": 2.5}, FVU),
        ({"kind": "jumprelu"}, FVU | {"sparsity": {"kind": "l0"}}),
        ({"kind": "relu"}, SOFT),
        ({"kind": "group_max", "k": 4}, FVU),
    ],
    ids=lambda value: value.get("kind", ""),
)
def test_without_decoders_across_it_is_a_transcoder_for_each_layer(
    function: dict[str, Any], terms: dict[str, Any], skip: bool, n_layers: int
) -> None:
    clt = build(n_layers, function, terms, skip=skip, start_across=False)
    if clt.W_skip is not None:
        torch.nn.init.normal_(clt.W_skip, std=0.2)
    each = transcoders(clt, function, terms)
    x, target = inputs(n_layers)
    together = clt(x, target)
    SquaredError().value(together).backward()

    def by_layer(values: Tensor, layer: int) -> Tensor:
        return values if n_layers == 1 else values[:, layer]

    for layer, own in enumerate(each):
        step = own(by_layer(x, layer), by_layer(target, layer))
        SquaredError().value(step).backward()
        torch.testing.assert_close(by_layer(together.recon, layer), step.recon)
        acts = together.acts.dense()[:, layer * F : (layer + 1) * F]
        torch.testing.assert_close(acts, step.acts.dense())
        for mine, theirs in (
            (clt.W_enc[layer].grad, own.W_enc.grad),
            (clt.b_enc[layer].grad, own.b_enc.grad),
            (clt.W_dec[layer].grad[:, 0], own.W_dec.grad),
            (clt.b_dec.grad[layer], own.b_dec.grad),
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        if own.W_skip is not None:
            torch.testing.assert_close(clt.W_skip.grad[layer], own.W_skip.grad, rtol=1e-4, atol=1e-5)


def test_one_feature_split_into_copies_for_each_target_changes_nothing() -> None:
    clt, x = build(3, {"kind": "relu"}, SOFT).eval(), inputs(3)[0]
    before = clt(x).recon
    with torch.no_grad():
        decoders = clt.W_dec[0][0].clone()
        for copy in (1, 2):
            clt.W_enc[0][:, copy] = clt.W_enc[0][:, 0]
            clt.b_enc[0][copy] = clt.b_enc[0][0]
        once = clt.W_dec[0].clone()
        once[1:3] = 0
        clt.W_dec[0].copy_(once)
        whole = clt(x).recon
        split = once.clone()
        split[0:3] = 0
        for target in range(3):
            split[target, target] = decoders[target]
        clt.W_dec[0].copy_(split)
    torch.testing.assert_close(clt(x).recon, whole)
    assert not torch.allclose(before, whole)


def test_reconstructions_sum_what_all_earlier_layers_write() -> None:
    clt, x = build(3, {"kind": "relu"}, SOFT).eval(), inputs(3)[0]
    step = clt(x)
    acts = step.acts.dense().chunk(3, dim=1)
    for target in range(3):
        written = [acts[layer] @ clt.W_dec[layer][:, target - layer] for layer in range(target + 1)]
        total = clt.b_dec[target] + torch.stack(written).sum(0)
        torch.testing.assert_close(step.recon[:, target], total)


def test_norms_are_of_the_concatenated_decoder_and_have_gradients() -> None:
    clt = build(3)
    norm = clt.decoder_norm()
    expected = torch.cat([(rows**2).sum((1, 2)).sqrt() for rows in clt.W_dec])
    torch.testing.assert_close(norm, expected)
    norm.sum().backward()
    assert all(rows.grad is not None and rows.grad.all() for rows in clt.W_dec)


@pytest.mark.parametrize("kind", ["layer_topk", "batch_layer_topk"])
def test_layers_share_their_budget(kind: str) -> None:
    clt = build(3, {"kind": kind, "k": 9}).train()
    with torch.no_grad():
        clt.b_enc[1].add_(1.0)
    acts = clt(inputs(3)[0]).acts.dense()
    l0 = (acts != 0).sum(1)
    assert l0.float().mean() == 9
    assert (l0 == 9).all() == (kind == "layer_topk")
    of_layers = (acts != 0).unflatten(1, (3, F)).sum((0, 2))
    assert of_layers[1] > 2 * of_layers[0]


def test_a_budget_of_its_own_for_each_layer() -> None:
    acts = build(3, {"kind": "topk", "k": 3}).train()(inputs(3)[0]).acts.dense()
    assert ((acts != 0).unflatten(1, (3, F)).sum(2) == 3).all()


def test_frozen_batch_topk_has_a_threshold_for_each_layer() -> None:
    clt = build(3, {"kind": "batch_topk", "k": 2.0}).train()
    with torch.no_grad():
        clt.W_dec[1].mul_(3.0)
    x = inputs(3)[0]
    clt(x)
    threshold = clt.frozen().activation.threshold.view(3, F)
    assert (threshold == threshold[:, :1]).all()
    assert len(threshold[:, 0].unique()) == 3
    one = build(3, {"kind": "batch_layer_topk", "k": 6.0}).train()
    one(x)
    assert len(one.frozen().activation.threshold.unique()) == 1


def test_k_of_every_layer_can_be_moved() -> None:
    clt = build(3).train()
    clt.activation.k = 5
    assert clt(inputs(3)[0]).acts.values.shape[1] == 3 * 5
    clt.activation.k = 1000
    assert clt.activation.k == F


def test_chosen_features_may_come_in_any_order() -> None:
    clt, x = build(3).eval(), inputs(3)[0]
    features = torch.tensor([45, 3, 21, 59, 0])
    step = clt(x)
    torch.testing.assert_close(clt.preacts_of(x, features), step.pre[:, features])
    values = torch.randn(N, 5)
    every = torch.zeros(N, 3 * F)
    every[:, features] = values
    expected = clt.decode(Acts(every, 3 * F)) - clt.b_dec
    torch.testing.assert_close(clt.decode_of(Acts(values, 5), x, features), expected)
    sparse = Acts(values, 5, torch.arange(5).expand(N, 5))
    torch.testing.assert_close(clt.decode_of(sparse, x, features), expected)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation inside returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, Tensor) and not leaf.is_mkldnn:  # packed weights
                self.numel = max(self.numel, leaf.untyped_storage().nbytes() // leaf.element_size())
        return out


@pytest.mark.parametrize(
    "function",
    [
        {"kind": "topk", "k": 2},
        {"kind": "batch_topk", "k": 2.0},
        {"kind": "layer_topk", "k": 8},
        {"kind": "batch_layer_topk", "k": 8.0},
        {"kind": "relu"},
    ],
    ids=lambda function: function["kind"],
)
def test_memory_grows_with_what_is_active(function: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of a step has a quarter of ``[N, F]``, one layer's activations; with ReLU there are ``[N, L F]``."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2**17)
    n, n_layers, n_features, d = 1024, 4, 1024, 8
    terms = SOFT if function["kind"] == "relu" else FVU | {"revive": {"kind": "auxk"}}
    reads, writes = sites(n_layers)
    wiring = {"kind": "cross_layer", "n_features": n_features}
    recipe = Recipe.from_dict({"wiring": wiring, "function": function, "terms": terms})
    clt = recipe.build(reads, writes, dict.fromkeys((*reads, *writes), d)).train()
    x, target = inputs(n_layers, n, d, d)
    clt.initialize_(recipe.initialize, Sample.of(x, target, n_layers, n_layers), torch.Generator().manual_seed(0))
    with Largest() as largest:
        SquaredError().value(clt(x, target)).backward()
    if function["kind"] == "relu":
        assert largest.numel >= n * n_layers * n_features
    else:
        assert largest.numel < n * n_features / 4


@pytest.mark.parametrize(
    ("reads", "writes", "wiring", "function", "said"),
    [
        (["0.mlp_in", "1.mlp_in"], ["0.mlp_out"], {}, TOPK, "found 2 sites to read and 1 to write"),
        (["1.mlp_in", "0.mlp_in"], ["1.mlp_out", "0.mlp_out"], {}, TOPK, "that read 1.mlp_in cannot write 0.mlp_out"),
        (
            ["0.resid_post", "1.resid_post"],
            ["0.mlp_out", "1.mlp_out"],
            {},
            TOPK,
            "read 0.resid_post cannot write 0.mlp",
        ),
        (["0.mlp_in", "0.mlp_in"], ["0.mlp_out", "1.mlp_out"], {}, TOPK, "0.mlp_in is read twice"),
        (["0.mlp_in", "1.resid_mid"], ["0.mlp_out", "1.mlp_out"], {}, TOPK, "0.mlp_in has 8, 1.resid_mid has 9"),
        (["0.mlp_in"], ["0.mlp_out"], {}, {"kind": "topk", "k": 21}, "k is 21, more than the dictionary's 20 features"),
        (["0.mlp_in"], ["0.mlp_out"], {}, {"kind": "layer_topk", "k": 21}, "more than the 20 features of all layers"),
        (["0.mlp_in"], ["0.mlp_out"], {}, {"kind": "variational", "k": 4}, "parameters for each feature of one layer"),
    ],
)
def test_refusals(
    reads: list[str], writes: list[str], wiring: dict[str, Any], function: dict[str, Any], said: str
) -> None:
    table = {"wiring": {"kind": "cross_layer", "n_features": F} | wiring, "function": function, "terms": FVU}
    read, write = (tuple(map(Site.parse, names)) for names in (reads, writes))
    widths = {site: {"mlp_out": 6, "resid_mid": 9}.get(site.kind, 8) for site in (*read, *write)}
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        Recipe.from_dict(table).build(read, write, widths)


def test_terms_and_functions_that_have_no_meaning_here() -> None:
    table = {"wiring": {"kind": "cross_layer"}, "terms": {"reconstruction": {"kind": "matryoshka"}}}
    with pytest.raises(ConfigError, match="does not take a term 'matryoshka': the first features of all"):
        Recipe.from_dict(table)
    with pytest.raises(ConfigError, match="has one layer; use 'topk'"):
        Recipe.from_dict({"wiring": {"kind": "autoencoder"}, "function": {"kind": "layer_topk"}})
    recipe = Recipe.from_dict({"wiring": {"kind": "cross_layer"}, "terms": {"predictions": {"kind": "end_to_end"}}})
    reads, writes = sites(2)
    with pytest.raises(ConfigError, match=r"terms.predictions splices one site into the model, found 2 to write"):
        recipe.build(reads, writes, dict.fromkeys((*reads, *writes), 8))
