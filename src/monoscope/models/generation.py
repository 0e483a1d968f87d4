"""Continuing token rows one token at a time, keys and values cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monoscope.core.errors import ConfigError
from monoscope.models.inputs import positions_of


@dataclass(frozen=True)
class Sampler:
    """Picks the next token of each row: the likeliest at temperature 0, otherwise a draw.

    temperature: divides the logits
    top_k: draws are from the k likeliest tokens; None for all
    generator: the sampler's own, so that a draw neither depends on nor disturbs any other randomness
    """

    temperature: float
    top_k: int | None
    generator: torch.Generator

    @staticmethod
    def of(temperature: float, top_k: int | None, seed: int | None, device: torch.device) -> Sampler:
        """A checked sampler; without a seed, draws differ from call to call."""
        if temperature < 0:
            raise ConfigError(f"temperature is 0 (the likeliest token) or more, found {temperature}")
        if top_k is not None and top_k < 1:
            raise ConfigError(f"top_k is at least 1, found {top_k}")
        generator = torch.Generator(device)
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        return Sampler(temperature, top_k, generator)

    def choose(self, logits: Float[Tensor, "batch vocab"]) -> Int[Tensor, " batch"]:
        """One token per row."""
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        scaled = logits.float() / self.temperature
        if self.top_k is not None and self.top_k < scaled.shape[-1]:
            values, indices = scaled.topk(self.top_k, dim=-1)
            scaled = torch.full_like(scaled, -torch.inf).scatter(-1, indices, values)
        return torch.multinomial(scaled.softmax(dim=-1), 1, generator=self.generator)[:, 0]


class CachedRows:
    """Rows that grow from pass to pass; earlier keys and values are kept, positions go on from the last.

    run: a forward pass, from the model's arguments and the positions of the pass
    tokens_name: the argument that takes new tokens
    mask: of the first tokens, where some are padding
    fixed: arguments that stay the same in every pass
    """

    def __init__(
        self,
        run: Callable[[dict[str, Any], Tensor], Any],
        tokens_name: str,
        mask: Tensor | None,
        fixed: Mapping[str, Any],
    ) -> None:
        self.run, self.tokens_name, self.mask, self.fixed = run, tokens_name, mask, fixed
        self.cache: Any = None
        self.n_seen = 0

    def next_logits(self, new: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch vocab"]:
        """Logits of the token after ``new``, which are the tokens since the last call."""
        return self.logits(new)[:, -1]

    def logits(self, new: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        """Logits behind each of ``new``, which are the tokens since the last call."""
        arguments = {self.tokens_name: new, "past_key_values": self.cache, "use_cache": True, **self.fixed}
        if self.mask is None:
            positions = self.n_seen + torch.arange(new.shape[1], device=new.device).expand(new.shape)
        else:
            if self.n_seen:
                self.mask = torch.cat([self.mask, torch.ones_like(new)], dim=1)
            positions = positions_of(self.mask)[:, self.n_seen :]
            arguments |= {"attention_mask": self.mask, "position_ids": positions}
        output = self.run(arguments, positions)
        self.cache, self.n_seen = output.past_key_values, self.n_seen + new.shape[1]
        return output.logits


def continued(
    tokens: Int[Tensor, "batch pos"],
    rows: CachedRows,
    sampler: Sampler,
    *,
    max_new_tokens: int,
    stop: Sequence[int],
    pad: int,
) -> Int[Tensor, "batch longer"]:
    """``tokens`` and up to ``max_new_tokens`` more, ending early once every row has met one of the ``stop`` tokens.

    ``pad`` fills a row behind its stop token.
    """
    if max_new_tokens < 0:
        raise ConfigError(f"max_new_tokens is 0 or more, found {max_new_tokens}")
    done = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    stops = torch.tensor(stop, dtype=tokens.dtype, device=tokens.device)
    new = tokens
    for _ in range(max_new_tokens):
        chosen = sampler.choose(rows.next_logits(new)).masked_fill(done, pad)
        new = chosen[:, None]
        tokens = torch.cat([tokens, new], dim=1)
        done |= torch.isin(chosen, stops)
        if done.all():
            break
    return tokens
