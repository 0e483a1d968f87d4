"""What a model is called with: padding masked, and every token at the position it has in its own row.

A padded row gives what the same row gives alone: padding is masked, and the first token that counts has position 0,
wherever padding is. Position ids say so to models that accept them; where positions are learned and counted by the
model itself (BART), the position embeddings are exchanged for those of the true positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from monoscope.core.errors import DataError, ModelError
from monoscope.models.family import Family

Tokens = Int[Tensor, "batch pos"] | Float[Tensor, "batch channels height width"]
Mask = Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"]


class Inputs:
    """Builds the arguments of one model's forward pass from tokens (or images) and a mask."""

    def __init__(self, hf: transformers.PreTrainedModel, family: Family | None) -> None:
        self.hf, self.family = hf, family
        self.accepted = set(inspect.signature(hf.forward).parameters)
        self.reads_images = hf.main_input_name == "pixel_values"
        self.is_encoder_decoder = bool(hf.config.is_encoder_decoder)
        text = hf.config.get_text_config()
        self.n_tokens: int = 0 if self.reads_images else text.vocab_size
        self.n_positions: int | None = getattr(text, "max_position_embeddings", None)

    def check(self, tokens: Tensor, mask: Tensor | None) -> None:
        """Raises DataError for tokens or a mask this model cannot be given."""
        if self.reads_images:
            if tokens.ndim != 4:
                raise DataError(f"this model reads images [batch, channels, height, width], found {_shape(tokens)}")
            if mask is not None:
                raise DataError("this model reads images, which take no mask")
            return
        if tokens.ndim != 2 or tokens.is_floating_point() or tokens.numel() == 0:
            raise DataError(f"tokens are integers [batch, pos], found {_shape(tokens)} {tokens.dtype}")
        if tokens.device.type == "cpu":  # elsewhere a look at the values would wait for the device
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= self.n_tokens:
                wrong = low if low < 0 else high
                raise DataError(f"token {wrong} is not among this model's {self.n_tokens}; is it another tokenizer's?")
        # Learned positions end; rotary ones only become unfamiliar.
        has_learned = self.family is not None and self.family.positions
        if has_learned and self.n_positions is not None and tokens.shape[1] > self.n_positions:
            raise DataError(f"a row has {tokens.shape[1]} tokens, and this model has {self.n_positions} positions")
        if mask is None:
            return
        if mask.shape != tokens.shape:
            raise DataError(f"the mask has shape {_shape(mask)}, the tokens {_shape(tokens)}")
        empty = ~mask.bool().any(dim=1)
        if mask.device.type == "cpu" and empty.any():
            raise DataError(f"the mask leaves no token of row {int(empty.int().argmax())}; drop the row")

    def arguments(self, tokens: Tensor, mask: Tensor | None) -> dict[str, Any]:
        """Keyword arguments of a forward pass over whole rows, without a cache."""
        if self.reads_images:
            return {"pixel_values": tokens.to(self.hf.dtype)}
        arguments: dict[str, Any] = {"input_ids": tokens}
        if mask is not None:
            arguments["attention_mask"] = mask
            if self.takes_positions:
                arguments["position_ids"] = positions_of(mask)
        if "use_cache" in self.accepted:
            arguments["use_cache"] = False
        if self.is_encoder_decoder:
            arguments["decoder_input_ids"] = self.decoder_tokens(tokens, mask)
            if mask is not None:
                arguments["decoder_attention_mask"] = mask
        return arguments

    @property
    def takes_positions(self) -> bool:
        """Whether position ids may be given; without a table, only where counting from 0 is sure to be meant."""
        if "position_ids" not in self.accepted:
            return False
        return self.family.takes_positions if self.family is not None else "use_cache" in self.accepted

    def decoder_tokens(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Each row one to the right, behind the start token: the decoder sees a token and predicts the next."""
        shifted = tokens.roll(1, dims=1)
        first = torch.zeros_like(tokens[:, 0]) if mask is None else mask.int().argmax(dim=1)
        return shifted.scatter(1, first[:, None], self.decoder_start)

    @property
    def decoder_start(self) -> int:
        """The token every decoder row begins with."""
        start = getattr(self.hf.config, "decoder_start_token_id", None)
        if start is None:
            raise ModelError(f"the config of this {type(self.hf).__name__} has no decoder_start_token_id; set it")
        return int(start)

    @contextmanager
    def exact_positions(self, mask: Tensor | None) -> Iterator[None]:
        """Gives models that count learned positions themselves those that ``mask`` implies."""
        with ExitStack() as hooks:
            if mask is not None and self.family is not None and not self.family.takes_positions:
                positions = positions_of(mask)

                def exchange(module: nn.Module, args: Any, output: Any) -> Tensor:
                    return F.embedding(positions + module.offset, module.weight)  # type: ignore[operator, arg-type]

                for path in self.family.positions:
                    module = self.hf.base_model.get_submodule(path)
                    hooks.callback(module.register_forward_hook(exchange).remove)
            yield

    def smallest(self) -> Tensor:
        """One row of one token, or one image: enough to find the shapes of activations."""
        if not self.reads_images:
            return torch.zeros(1, 1, dtype=torch.long)
        config = self.hf.config
        size = config.image_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return torch.zeros(1, config.num_channels, height, width)


def positions_of(mask: Mask) -> Int[Tensor, "batch pos"]:
    """Position of each token in its row, counting only tokens the mask keeps; 0 before the first of them."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def padding_first(tokens: Int[Tensor, "batch pos"], mask: Mask) -> tuple[Int[Tensor, "batch pos"], Mask]:
    """Tokens and mask with every row's padding moved to its left."""
    order = mask.bool().int().argsort(dim=1, stable=True)
    return tokens.gather(1, order), mask.gather(1, order)


def _shape(x: Tensor) -> str:
    return f"[{', '.join(map(str, x.shape))}]"
