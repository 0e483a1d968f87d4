"""Memory that training in one pass will take, predicted from its configuration, and the passes that fit into a bound.

    pass = model + sum over dictionaries (4 P + kept) + max(first activations, shuffle buffer + widest step)

4 P: weights, optimizer state and gradients; kept: what a step leaves behind until the next. The widest step is the
largest of what the dictionaries need while they take theirs, one after another, or are copied, folded and written at
the end. Of several processes each counts its own: equal shares of the features and of a batch, but the whole dictionary
at its beginning and at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import torch

from monoscope.core.errors import ConfigError
from monoscope.core.site import Site
from monoscope.dictionaries.function import ActivationFunction
from monoscope.ops.blocks import BLOCK_BYTES
from monoscope.ops.selection import AbsTopKPerToken, TopKPerBatch, TopKPerToken
from monoscope.parallel.shard import cuts_of
from monoscope.training.beginning import SCALE_TOKENS
from monoscope.training.train import RunConfig

FLOAT = 4  # bytes
PROGRAM = 640e6  # bytes of the libraries and of what they set aside
BLOCKS = 4  # blocks of pre-activations at a time, with what selects among them
ENTRY = 100  # bytes of a feature that fires on a token: indices, values, gradients, and their order by feature
FIRING = 64  # features of a token, where the function does not say how many
WIDE = 8  # [batch, d] arrays of a step: errors, reconstructions, gradients
COPIES = 1.25  # [batch, feature] arrays of a step in fp32, where all pre-activations are held to select among them
DENSE_COPIES = 5  # the same where every feature keeps its place
BEGINNING = 2  # copies of the weights before they are shared out: whole, and a share being cut
FINISHING = 6  # copies of the weights at the end: frozen, folded, in the order of the file, as its bytes
GATHERING = 4  # copies more where they are gathered first, from shares that are kept


@dataclass(frozen=True, slots=True)
class Pass:
    """Dictionaries trained side by side, the sites they need, and the bytes that takes."""

    names: tuple[str, ...]
    sites: tuple[Site, ...]
    bytes: float


@dataclass(frozen=True, slots=True)
class Need:
    """What one dictionary takes: always, and on top while it takes a step, and before it is shared out.

    copies: of the first activations, which one dictionary of one site scales where they are
    """

    sites: tuple[Site, ...]
    resident: float
    step: float
    beginning: float = 0.0
    copies: int = 2


def need_of(run: RunConfig, widths: Mapping[Site, int], *, data: int = 1, features: int = 1) -> Need:
    """Bytes of one dictionary in training. Raises ConfigError where its choices do not fit together.

    data, features: how many processes share its batches, and its features
    """
    with torch.device("meta"):
        dictionary = run.recipe.build(run.reads, run.writes, widths)
    cuts = cuts_of(dictionary)
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in dictionary.state_dict().items()}
    whole, own = sum(sizes.values()), sum(size / (features if name in cuts else 1) for name, size in sizes.items())
    n, n_features = run.training.batch_tokens / data, dictionary.n_features / features
    is_dense = dictionary.activation.selection is None
    per_token = sum(widths[site] for site in run.reads) + 2 * sum(widths[site] for site in run.writes)
    kept = n * (per_token + (n_features if is_dense else 0)) * FLOAT
    finishing = (FINISHING + (GATHERING if features > 1 else 0)) * whole
    by_blocks = not is_dense and dictionary.per_token and "W_glu" not in sizes
    pre = n * n_features * FLOAT
    step = pre * (DENSE_COPIES if is_dense else COPIES)
    if by_blocks:
        wide = WIDE * FLOAT * sum(widths[site] for site in run.writes)
        step = BLOCKS * min(pre, BLOCK_BYTES) + n * (firing(dictionary.activation) * ENTRY + wide)
    step = max(step, finishing)
    sites = tuple(dict.fromkeys((*run.reads, *run.writes)))
    beginning = BEGINNING * whole if data * features > 1 else 0.0
    copies = 1 if dictionary.per_token and len(run.reads) == len(run.writes) == 1 else 2  # several are joined
    return Need(sites, own * (2 + run.training.optimizer.states) + kept, step, beginning, copies)


def firing(function: ActivationFunction) -> int:
    """Features of a token that fire, as far as the function says."""
    match function.selection:
        case TopKPerToken(k) | AbsTopKPerToken(k):
            return k
        case TopKPerBatch(k):
            return ceil(k)
        case _:
            return FIRING


def pass_bytes(needs: Sequence[Need], shuffle_tokens: int, widths: Mapping[Site, int], model_bytes: float) -> float:
    """Bytes of a pass over the model in which these dictionaries are trained."""
    return PROGRAM + model_bytes + training_bytes(needs, shuffle_tokens, widths)


def training_bytes(needs: Sequence[Need], shuffle_tokens: float, widths: Mapping[Site, int]) -> float:
    """Bytes of the dictionaries, the activations they start from and those that wait, and the widest step."""
    per_token = FLOAT * sum(widths[site] for site in {site for need in needs for site in need.sites})
    copies = needs[0].copies if len(needs) == 1 else 2  # of several, each scales a copy
    start = per_token * copies * SCALE_TOKENS + max(need.beginning for need in needs)
    step = max(need.step for need in needs)
    return sum(need.resident for need in needs) + max(start, per_token * shuffle_tokens + step)


def plan(runs: Mapping[str, RunConfig], widths: Mapping[Site, int], *, model_bytes: float, memory: float) -> list[Pass]:
    """The fewest passes, in the order of the runs, that stay within ``memory`` bytes each.

    Raises ConfigError, naming it and what would help, for a dictionary that does not fit even alone.
    """
    return list(_passes(runs, widths, model_bytes, memory))


def _passes(
    runs: Mapping[str, RunConfig], widths: Mapping[Site, int], model_bytes: float, memory: float
) -> Iterator[Pass]:
    group: dict[str, Need] = {}
    total = 0.0
    for name, run in runs.items():
        try:
            need = need_of(run, widths)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
        shuffled = run.training.shuffle_tokens
        grown = pass_bytes([*group.values(), need], shuffled, widths, model_bytes)
        if group and grown > memory:
            yield Pass(tuple(group), _sites(group), total)
            group, grown = {}, pass_bytes([need], shuffled, widths, model_bytes)
        if grown > memory:
            raise ConfigError(
                f"{name} alone needs about {grown / 1e9:.1f} GB to train, and {memory / 1e9:.1f} GB are set aside; "
                "choose a smaller width, lower training.shuffle_tokens or training.batch_tokens, or raise "
                "suite.memory_gb"
            )
        group[name], total = need, grown
    if group:
        yield Pass(tuple(group), _sites(group), total)


def _sites(needs: Mapping[str, Need]) -> tuple[Site, ...]:
    return tuple(dict.fromkeys(site for need in needs.values() for site in need.sites))
