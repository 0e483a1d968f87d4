"""What each sae_type of llamascopium holds, as one of our wirings.

    sae         W_E [d, F] b_E W_D [F, d] b_D (W_E_glu, b_E_glu)                           autoencoder
    crosscoder  W_E [M, d, F] b_E [M, F] W_D [M, F, d] b_D [M, d]                          crosscoder, gates at sites
    clt         W_E [L, d, F] b_E [L, F]; W_D.t [t + 1, F, d], b_D.t [d] by write layer    cross_layer
    molt        W_E b_E b_D; U_matrices.r [n, d, r], V_matrices.r [n, r, d] by rank        molt:  A = V^T, B = U^T
    lorsa       formats.llamascopium_lorsa                                                 lorsa: W_enc = W_V^T

Factors of activations are folded in as ``Dictionary.rescale_`` does it: features keep the units of training. Of a
crosscoder and a CLT norms keep them too (``norm_scale``). Shapes: d width, F features, M sites, L layers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from monoscope.core.errors import ConfigError, DataError
from monoscope.formats.lazy import Lazy
from monoscope.formats.llamascopium_found import Found, Made, times
from monoscope.formats.llamascopium_lorsa import lorsa
from monoscope.formats.opened import check_shape


def autoencoder(found: Found) -> Made:
    """An SAE or a transcoder."""
    glu, d, n = found.setting("use_glu_encoder", bool, False), found.d, found.n_features
    (hook_in,), (hook_out,) = found.hooks_in, found.hooks_out
    if hook_in != hook_out:
        found.refuse_token_wise()
    s_in, s_out = found.scale(hook_in), found.scale(hook_out)
    found.take("W_E", "b_E", "W_D", *["b_D"] * found.has_bias, *["W_E_glu", "b_E_glu"] * glu)
    tensors = {
        "W_enc": times(found.tensor("W_E", d, n), s_in),
        "b_enc": found.tensor("b_E", n),
        "W_dec": times(found.tensor("W_D", n, d), 1 / s_out),
        "b_dec": times(found.tensor("b_D", d), 1 / s_out) if found.has_bias else Lazy.of(torch.zeros(d)),
    }
    if glu:
        tensors |= {"W_glu": times(found.tensor("W_E_glu", d, n), s_in), "b_glu": found.tensor("b_E_glu", n)}
    if found.act_fn == "jumprelu":
        tensors["activation.threshold"] = times(found.threshold(n), 1 / s_out if found.is_scaled else 1.0)
    wiring = {"kind": "autoencoder", "n_features": n, "center": False, "unit_norm": False}
    wiring |= {"scale_by_decoder_norm": found.is_scaled, "glu": glu}
    if found.is_token_wise:
        wiring["normalizer"] = "token_norm"
    return found.table(wiring, found.function()), tensors


def crosscoder(found: Found) -> Made:
    """A crosscoder, whose features have a gate at each site; without thresholds or k, all gates open together."""
    found.refuse_token_wise()
    if not found.is_scaled or not found.has_bias:
        raise DataError(f"{found.where} describes a crosscoder without decoder norms or biases, which has never been")
    hooks, d, n = found.hooks_in, found.d, found.n_features
    m, scales = len(hooks), torch.tensor([found.scale(hook) for hook in found.hooks_in])
    found.take("W_E", "b_E", "W_D", "b_D")
    tensors = {
        "W_enc": found.tensor("W_E", m, d, n).scaled_along(0, scales),
        "b_enc": found.tensor("b_E", m, n).map(lambda bias: bias.float().sum(0), (n,), torch.float32),
        "W_dec": found.tensor("W_D", m, n, d).scaled_along(0, 1 / scales),
        "b_dec": found.tensor("b_D", m, d).scaled_along(0, 1 / scales),
        "norm_scale": Lazy.of(scales),
    }
    if found.act_fn == "jumprelu":
        tensors["activation.threshold"] = found.threshold(n)
    gate = "shared" if found.act_fn == "relu" else "per_site"
    return found.table({"kind": "crosscoder", "n_features": n, "gate": gate}, found.function()), tensors


def cross_layer(found: Found) -> Made:
    """A CLT. Decoders are stored by the layer they write; ours by the layer that is read."""
    found.refuse_token_wise()
    reads, writes, d, n = found.hooks_in, found.hooks_out, found.d, found.n_features
    layers = len(reads)
    if len(writes) != layers:
        raise ConfigError(f"{found.where} reads {layers} hook points and writes {len(writes)}")
    s, o = ([found.scale(hook) for hook in hooks] for hooks in (reads, writes))
    rows = [f"W_D.{layer}" for layer in range(layers)]
    biases = [f"b_D.{layer}" for layer in range(layers)]
    found.take("W_E", "b_E", *rows, *biases)
    encoder, encoder_bias = found.tensor("W_E", layers, d, n), found.tensor("b_E", layers, n)
    decoder = [found.tensor(name, layer + 1, n, d) for layer, name in enumerate(rows)]
    tensors = {
        "b_dec": Lazy.stack([times(found.tensor(name, d), 1 / o[layer]) for layer, name in enumerate(biases)]),
        "norm_scale": Lazy.of(torch.tensor(o)),
    }
    for layer in range(layers):
        targets = [times(decoder[t].select(0, layer), 1 / o[t]) for t in range(layer, layers)]
        tensors |= {
            f"W_enc.{layer}": times(encoder.select(0, layer), s[layer]),
            f"b_enc.{layer}": encoder_bias.select(0, layer),
            f"W_dec.{layer}": Lazy.stack(targets).permute(1, 0, 2),
        }
    if found.act_fn == "jumprelu":
        tensors["activation.threshold"] = found.threshold(layers, n).reshape(layers * n)
    wiring = {"kind": "cross_layer", "n_features": n, "scale_by_decoder_norm": found.is_scaled}
    return found.table(wiring, found.function(layertopk="layer_topk")), tensors


def molt(found: Found) -> Made:
    """A MOLT, its features numbered from the smallest rank up."""
    found.refuse_token_wise()
    counts, d = found.setting("rank_counts", dict), found.d
    try:
        sizes = {int(rank): int(n) for rank, n in counts.items()}
    except (TypeError, ValueError):
        raise ConfigError(f"{found.where} has rank_counts {counts!r}, where numbers by rank are expected") from None
    ranks = sorted(sizes)
    n, names = sum(sizes.values()), [f"{side}_matrices.{rank}" for side in "UV" for rank in ranks]
    s_in, s_out = found.scale(found.hooks_in[0]), found.scale(found.hooks_out[0])
    found.take("W_E", "b_E", *["b_D"] * found.has_bias, *names)
    tensors = {
        "W_enc": times(found.tensor("W_E", d, n), s_in),
        "b_enc": found.tensor("b_E", n),
        "b_dec": times(found.tensor("b_D", d), 1 / s_out) if found.has_bias else Lazy.of(torch.zeros(d)),
    }
    for group, rank in enumerate(ranks):
        up, down = (found.tensor(f"{side}_matrices.{rank}", sizes[rank], None, None) for side in "UV")
        check_shape(up, (sizes[rank], d, rank), f"U_matrices.{rank}", f"the weights of {found.where}")
        check_shape(down, (sizes[rank], rank, d), f"V_matrices.{rank}", f"the weights of {found.where}")
        tensors |= {f"A.{group}": times(down.permute(0, 2, 1), s_in / s_out), f"B.{group}": up.permute(0, 2, 1)}
    if found.act_fn == "jumprelu":
        tensors["activation.threshold"] = times(found.threshold(n), s_in / s_out if found.is_scaled else 1.0)
    wiring = {"kind": "molt", "n_features": n, "ranks": [[rank, sizes[rank]] for rank in ranks]}
    return found.table(wiring | {"scale_by_decoder_norm": found.is_scaled}, found.function()), tensors


WIRINGS: dict[str, Callable[[Found], Made]] = {
    "sae": autoencoder,
    "crosscoder": crosscoder,
    "clt": cross_layer,
    "molt": molt,
    "lorsa": lorsa,
}
"""How each sae_type becomes a table and tensors."""
