"""Hooks that hand a site's tensor to a function, and put what it returns in the tensor's place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from monoscope.core.errors import SiteError

Tap = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True)
class Place:
    """Where a site's tensor is in one model.

    module, port: whose input or output it is
    entry: which entry, where the output is a tuple or a ModelOutput
    part: (groups, index): the tensor's last axis is [groups, 3, width / groups / 3], and the site is entry ``index``
    rows_of: the block whose input still has the axes [batch, pos, d], where the tensor has [batch * pos, d]
    is_stream: the tensor is the residual stream itself, which others read too: a new value is written into it
    normalized: the module is a norm, and the site is what it makes of its input before gain and bias; nothing can be
        put there
    """

    module: nn.Module
    port: Literal["in", "out"]
    entry: int | str = 0
    part: tuple[int, int] | None = None
    rows_of: nn.Module | None = None
    is_stream: bool = False
    normalized: bool = False


@contextmanager
def tapped(place: Place, tap: Tap) -> Iterator[None]:
    """Within the block, every pass through ``place`` calls ``tap(x)``; a tensor it returns takes x's place."""
    with ExitStack() as hooks:
        lead: list[tuple[int, ...]] = []  # batch and pos of the pass underway
        if place.rows_of is not None:

            def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                lead[:] = [_input(args, kwargs)[1].shape[:2]]

            hooks.callback(place.rows_of.register_forward_pre_hook(note, with_kwargs=True).remove)

        def exchange(x: Tensor) -> Tensor | None:
            return _exchange(place, tap, x, lead[0] if lead else None)

        hooks.callback(_register(place, exchange).remove)
        yield


def _register(place: Place, exchange: Tap) -> torch.utils.hooks.RemovableHandle:
    if place.port == "out":

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            new = exchange(_entry(output, place.entry))
            return None if new is None else _with_entry(output, place.entry, new)

        return place.module.register_forward_hook(after)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key, x = _input(args, kwargs)
        new = exchange(x)
        if new is None:
            return None
        return (args, kwargs | {key: new}) if isinstance(key, str) else ((*args[:key], new, *args[key + 1 :]), kwargs)

    return place.module.register_forward_pre_hook(before, with_kwargs=True)


def _exchange(place: Place, tap: Tap, x: Tensor, lead: tuple[int, ...] | None) -> Tensor | None:
    """What ``tap`` makes of the site's part of x, put back into x; None if it leaves x alone."""
    if place.part is not None:
        groups, index = place.part
        parts = list(x.unflatten(-1, (groups, 3, -1)).unbind(-2))
        new = tap(parts[index].flatten(-2))
        if new is None:
            return None
        parts[index] = new.unflatten(-1, (groups, -1))
        return torch.stack(parts, dim=-2).flatten(-3)
    site = x if lead is None else x.unflatten(0, lead)
    if place.normalized:
        tap(before_gain(place.module, site))
        return None
    if not place.is_stream:
        new = tap(site)
        return None if new is None else new.reshape(x.shape)
    # The block keeps its own reference to this tensor and adds the MLP's output to it, so only a change in place
    # reaches every reader. The function gets a copy, which autograd may keep.
    new = tap(site.clone())
    if new is not None:
        x.copy_(new.reshape(x.shape))
    return None


def before_gain(norm: Any, x: Tensor) -> Tensor:
    """What a norm makes of x before its gain and bias, computed in fp32, in x's dtype.

    x / sqrt(mean(x^2) + eps), of which layer norms take the mean away first
    """
    wide = x.float()
    if isinstance(norm, nn.LayerNorm):
        wide = wide - wide.mean(-1, keepdim=True)
    eps: Any = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int | str, Tensor]:
    """The tensor a module reads, and its position or name among the arguments."""
    if "hidden_states" in kwargs:
        return "hidden_states", kwargs["hidden_states"]
    for key, value in (*enumerate(args), *kwargs.items()):
        if torch.is_tensor(value):
            return key, value
    raise SiteError("this module is called without a tensor; read a neighbor's ':out' instead")


def _entry(output: Any, entry: int | str) -> Tensor:
    found: Any = output
    if isinstance(output, ModelOutput):
        found = output[entry]
    elif isinstance(output, tuple):
        assert isinstance(entry, int)
        found = output[entry]
    if not torch.is_tensor(found):
        raise SiteError(f"this module returns {type(found).__name__}, not a tensor; read a neighbor instead")
    return found


def _with_entry(output: Any, entry: int | str, new: Tensor) -> Any:
    if isinstance(output, ModelOutput):
        key = entry if isinstance(entry, str) else list(output)[entry]
        return type(output)(**{**output, key: new})
    if isinstance(output, tuple):
        assert isinstance(entry, int)
        return (*output[:entry], new, *output[entry + 1 :])
    return new
