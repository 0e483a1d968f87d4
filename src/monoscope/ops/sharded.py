"""The ops on a mesh: each process selects among its own features, and what is kept is settled among all of them.

    per token    every process sends the scores of its own k largest: k x processes numbers travel, not F
    per batch    the cut is found by counting: three rounds of 2048 counts, added over both axes of the mesh
    decode       every process sums its own features' rows; the sums are added

Without a mesh these are the ops themselves. Shapes: N tokens of this process, F features of this process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.mesh import Shards, current
from monoscope.ops import api
from monoscope.ops.selection import (
    AboveThreshold,
    AbsTopKPerToken,
    EachLayer,
    LargestPerGroup,
    Selection,
    TopKPerBatch,
    TopKPerToken,
)

SPARE = 1.25  # candidates looked at for a batch's budget, as a multiple of this process's even share
DIGIT = 11  # bits of a score settled in one round of counting


def encode(
    x: Float[Tensor, "*batch d"],
    W_enc: Float[Tensor, "d F"],
    b_enc: Float[Tensor, " F"],
    selection: Selection,
    *,
    center: Float[Tensor, " d"] | None = None,
    norm: Float[Tensor, " F"] | None = None,
    dtype: torch.dtype | None = None,
) -> Acts:
    """Pre-activations of the entries that survive a selection among all features; see ``api.encode``."""
    here = current()
    if here is None:
        return api.encode(x, W_enc, b_enc, selection, center=center, norm=norm, dtype=dtype)
    z, middle = here.mesh.features.spread(x), None if center is None else here.mesh.features.spread(center)

    def local(rule: Selection) -> Acts:
        return api.encode(z, W_enc, b_enc, rule, center=middle, norm=norm, dtype=dtype)

    return _settled(here, local, selection, W_enc.shape[1], x.shape[:-1].numel(), norm)


def encode_above(
    x: Float[Tensor, "*batch d"],
    W_enc: Float[Tensor, "d F"],
    b_enc: Float[Tensor, " F"],
    threshold: Float[Tensor, " F"] | float,
    bandwidth: float,
    *,
    center: Float[Tensor, " d"] | None = None,
    norm: Float[Tensor, " F"] | None = None,
    dtype: torch.dtype | None = None,
) -> Acts:
    """Pre-activations of scores above a threshold, which each process settles alone; see ``api.encode_above``."""
    middle = None if center is None else spread(center)
    return api.encode_above(spread(x), W_enc, b_enc, threshold, bandwidth, center=middle, norm=norm, dtype=dtype)


def encode_layers(
    x: Float[Tensor, "*batch layer d"],
    W_enc: Sequence[Float[Tensor, "d F"]],
    b_enc: Sequence[Float[Tensor, " F"]],
    selection: Selection,
    *,
    norm: Float[Tensor, " LF"] | None = None,
    dtype: torch.dtype | None = None,
) -> Acts:
    """Pre-activations, by an encoder for each layer, of the entries that survive; see ``api.encode_layers``."""
    here = current()
    if here is None:
        return api.encode_layers(x, W_enc, b_enc, selection, norm=norm, dtype=dtype)
    if isinstance(selection, EachLayer):
        norms = [None] * len(W_enc) if norm is None else norm.chunk(len(W_enc))
        layers = zip(x.unbind(-2), W_enc, b_enc, selection.rules, norms, strict=True)
        return Acts.joined([encode(x_l, w, b, rule, norm=n, dtype=dtype) for x_l, w, b, rule, n in layers])
    z = here.mesh.features.spread(x)

    def local(rule: Selection) -> Acts:
        return api.encode_layers(z, W_enc, b_enc, rule, norm=norm, dtype=dtype)

    n_features = len(W_enc) * W_enc[0].shape[1]
    return _settled(here, local, selection, n_features, x.shape[:-2].numel(), norm)


def _settled(
    here: Shards, local: Callable[[Selection], Acts], rule: Selection, n_features: int, n: int, norm: Tensor | None
) -> Acts:
    """What survives of this process's features; ``local`` selects among those alone."""
    match rule:
        case TopKPerToken(k):
            return _cut_per_token(here, local(replace(rule, k=min(k, n_features))), k, norm)
        case AbsTopKPerToken(k):
            return _cut_per_token(here, local(AbsTopKPerToken(min(k, n_features))), k, norm)
        case TopKPerBatch(k):
            return _cut_per_batch(here, local, k, n_features, n, norm)
        case LargestPerGroup(n_groups):
            return local(LargestPerGroup(n_groups // here.mesh.features.size))
        case AboveThreshold():
            return local(rule)
        case EachLayer():
            raise AssertionError("layers are encoded by encode_layers")


def _scores(acts: Acts, norm: Tensor | None) -> Tensor:
    values = acts.values.detach()
    if norm is None:
        return values
    return values * (norm if acts.indices is None else norm[acts.indices.long()])


def _cut_per_token(here: Shards, acts: Acts, k: int, norm: Tensor | None) -> Acts:
    score = _scores(acts, norm).abs()
    if acts.indices is None:
        return top_per_token(acts.values, score, k)
    return _compact(replace(acts, values=acts.values * _among_largest(here, score, k)))


def _among_largest(here: Shards, score: Float[Tensor, "*batch c"], k: int) -> Bool[Tensor, "*batch c"]:
    """Which of this process's candidates are among the k largest scores of each token, over all processes."""
    axis, own = here.mesh.features, score.shape[-1]
    if axis.group is None:
        return torch.ones_like(score, dtype=torch.bool)
    widest = axis.counted(own, "max")  # chosen features, or slots that hold some, may be more in one than in another
    padded = torch.nn.functional.pad(score, (0, widest - own), value=-torch.inf)
    everyone = torch.cat(axis.gather(padded), dim=-1)
    if everyone.shape[-1] <= k:
        return torch.ones_like(score, dtype=torch.bool)
    best = everyone.topk(k, dim=-1, sorted=False).indices
    kept = torch.zeros_like(everyone, dtype=torch.bool).scatter_(-1, best, True)
    return kept[..., axis.number * widest : axis.number * widest + own]


def _compact(acts: Acts) -> Acts:
    """The same activations in as few slots as the fullest token needs."""
    assert acts.indices is not None, "only the sparse layout has slots"
    fires = acts.values != 0
    n_slots = max(1, int(fires.sum(-1).max())) if fires.numel() else fires.shape[-1]
    if n_slots >= fires.shape[-1]:
        return acts
    order = fires.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :n_slots]
    return Acts(acts.values.gather(-1, order), acts.n_features, acts.indices.gather(-1, order))


def _cut_per_batch(
    here: Shards, local: Callable[[Selection], Acts], k: float, n_features: int, n: int, norm: Tensor | None
) -> Acts:
    # A process that had to drop candidates knows nothing below the smallest it kept: if the cut falls there, it looks
    # at more. All processes take the same decision, since they see the same cut and the same bound.
    n_kept = _budget(here, k, n, n_features)
    budget = min(n_features, SPARE * k * n_features / here.n_features)
    while True:
        acts = local(TopKPerBatch(budget))
        score = _scores(acts, norm)
        positive = score[score > 0]
        is_whole = budget >= n_features or len(positive) < max(1, round(budget * n))
        bound = score.new_zeros(()) if is_whole else positive.min()
        cut = _kth_largest(here, score, n_kept).clamp_min(0)
        if bool(cut >= here.mesh.every.reduce_(bound.clone(), "max")) or budget >= n_features:
            values = acts.values * (score >= cut)
            return Acts(values, acts.n_features) if acts.indices is None else _compact(replace(acts, values=values))
        budget = min(n_features, 2 * budget)


def _budget(here: Shards, k: float, n: int, n_features: int) -> int:
    """Entries to keep of the batch of all processes."""
    n_all = token_count(n)
    return max(1, min(round(k * n_all), n_all * n_features * here.mesh.features.size))


def decode(acts: Acts, W_dec: Float[Tensor, "F d"]) -> Float[Tensor, "*batch d"]:
    """Sum of decoder rows over the features of all processes, weighted by activations; see ``api.decode``."""
    return over_features(decode_part(acts, W_dec))


def decode_part(acts: Acts, W_dec: Float[Tensor, "F d"]) -> Float[Tensor, "*batch d"]:
    """What the features of this process add to a sum of decoder rows: ``over_features`` completes it."""
    if min(len(W_dec), acts.n_features) == 0:  # a run of features of which this process has none
        return acts.values.new_zeros(*acts.values.shape[:-1], W_dec.shape[1])
    return api.decode(acts, W_dec)


def top_per_token(pre: Float[Tensor, "*batch F"], score: Float[Tensor, "*batch F"], k: int) -> Acts:
    """Pre-activations of the k largest scores of each token, among the features of all processes."""
    indices = score.topk(min(k, score.shape[-1]), dim=-1, sorted=False).indices
    acts = Acts(pre.gather(-1, indices), pre.shape[-1], indices)
    here = current()
    if here is None or here.mesh.features.group is None:
        return acts
    return _compact(replace(acts, values=acts.values * _among_largest(here, score.gather(-1, indices), k)))


def batch_cut(score: Float[Tensor, "*tokens F"], k: float) -> Float[Tensor, ""]:
    """The smallest of the ``round(k N)`` largest scores of a batch of N tokens."""
    here, n = current(), score[..., 0].numel()
    if here is None:
        return api.kth_largest(score, max(1, min(round(k * n), score.numel())))
    return _kth_largest(here, score, _budget(here, k, n, score.shape[-1]))


def _kth_largest(here: Shards, score: Tensor, k: int) -> Float[Tensor, ""]:
    """The k-th largest entry of all processes' tensors, by counting from the highest bits down.

    Floating-point numbers are ordered as their bits are, those of negative ones flipped. Where there are fewer than
    ``k`` entries, minus infinity.
    """
    integer, bits = (torch.int64, 64) if score.dtype == torch.float64 else (torch.int32, 32)
    values = score if score.dtype == torch.float64 else score.float()
    key = values.flatten().view(integer).long()
    key = torch.where(key < 0, key ^ (2 ** (bits - 1) - 1), key)
    prefix, left = key.new_zeros(()), torch.tensor(k, device=key.device)
    is_candidate = torch.ones_like(key, dtype=torch.bool)
    for high in range(bits, 0, -DIGIT):
        width = min(DIGIT, high)
        shift, half = high - width, 2 ** (width - 1) if high == bits else 0
        digit = ((key >> shift) + half) & (2**width - 1)
        counts = here.mesh.every.reduce_(digit[is_candidate].bincount(minlength=2**width))
        from_here_up = counts.flip(0).cumsum(0).flip(0)
        if high == bits and bool(from_here_up[0] < k):
            return score.new_tensor(-torch.inf)
        best = (from_here_up >= left).sum() - 1
        left = left - (from_here_up[best] - counts[best])
        is_candidate &= digit == best
        prefix = (prefix << width) + best - half
    found = torch.where(prefix < 0, prefix ^ (2 ** (bits - 1) - 1), prefix)
    return found.to(integer).view(values.dtype).to(score.dtype)


def spread(x: Tensor) -> Tensor:
    """A value that every feature reads: where features are spread over processes, its gradients are added."""
    here = current()
    return x if here is None else here.mesh.features.spread(x)


def over_tokens(x: Tensor) -> Tensor:
    """A sum over the tokens of this process, continued over those of all."""
    here = current()
    return x if here is None else here.mesh.data.total(x)


def once(x: Tensor) -> Tensor:
    """A value that no token decides, where it enters a sum over all tokens: each process passes on its share."""
    here = current()
    return (
        x
        if here is None or here.mesh.data.group is None
        else x / here.mesh.data.size + (x * (1 - 1 / here.mesh.data.size)).detach()
    )


def over_features(x: Tensor) -> Tensor:
    """A sum over the features of this process, continued over those of all."""
    here = current()
    return x if here is None else here.mesh.features.total(x)


def token_count(n: int) -> int:
    """Tokens of all processes, of which this one has ``n``."""
    here = current()
    return n if here is None else here.mesh.data.counted(n)


def feature_count(n: int) -> int:
    """Features of all processes, of which this one has ``n``; they may be chosen ones, another number on each."""
    here = current()
    return n if here is None else here.mesh.features.counted(n)


def smallest(x: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The smallest of all processes' values."""
    here = current()
    return x if here is None else here.mesh.every.reduce_(x.clone(), "min")


def fired_anywhere(fired: Bool[Tensor, " F"]) -> Bool[Tensor, " F"]:
    """Which features fire on a token of any process."""
    here = current()
    return fired if here is None else here.mesh.data.reduce_(fired.to(torch.uint8), "max").bool()


def batch_mean(x: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """Mean over the tokens of all processes."""
    here = current()
    if here is None:
        return x.mean(0)
    sums = here.mesh.data.total(torch.cat([x.sum(0), x.new_tensor([len(x)])]))
    return sums[:-1] / sums[-1]


def own_ends(ends: Sequence[int], n_features: int) -> list[int]:
    """Ends of runs of all features, as they fall among those of this process."""
    here = current()
    if here is None:
        return list(ends)
    return torch.searchsorted(here.owned, torch.tensor(list(ends))).tolist()


def normal(like: Float[Tensor, "*batch F"], generator: torch.Generator) -> Float[Tensor, "*batch F"]:
    """Normal noise, the same for a token and feature wherever they are.

    It is drawn for all tokens and features, and each process takes its own: as much memory as dense activations.
    """
    here = current()
    if here is None:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    rows = like.shape[:-1].numel()
    each = [int(n) for n in here.mesh.data.gather(torch.tensor(rows, device=here.mesh.data.device))]
    shape = (sum(each), here.n_features)
    noise = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
    first = sum(each[: here.mesh.data.number])
    return noise[first : first + rows, here.owned.to(like.device)].view(like.shape)
