"""One's own text as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from monoscope.core.errors import UserError
from monoscope.server.worker.shelf import Model


class Text(BaseModel):
    """A text or a conversation, as the server passes it on; ``most_tokens`` bounds its length."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str | None = None
    messages: list[dict[str, str]] | None = None
    most_tokens: int


def tokenized(model: Model, prompt: Text, bos: str | None, room: int = 0) -> Int[Tensor, " pos"]:
    """Tokens of a text as dictionaries were trained to read them, and ``room`` left behind it in the context.

    A beginning-of-sequence token stands in front unless training had none (``bos = "none"``). Raises UserError for a
    text that is empty or too long, or a conversation where the model has no chat template.
    """
    tokenizer: Any = model.lm.tokenizer
    if prompt.messages is not None:
        if not tokenizer.chat_template:
            raise UserError(f"{model.name} has no chat template, so it reads no messages; send a text")
        try:
            ids = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, return_dict=False)
        except Exception as error:  # templates are programs, and refuse in whatever way they like
            raise UserError(f"the chat template of {model.name} refuses these messages: {error}") from None
    else:
        ids = tokenizer(prompt.text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        start = model.lm.bos_token_id
        if start is not None and bos != "none":
            ids = [start, *ids]
    if not ids or (prompt.text is not None and not prompt.text):
        raise UserError("the text is empty: there is nothing to read")
    most = min(prompt.most_tokens, model.lm.context_length - room)
    if len(ids) > most:
        why = "the server takes" if most == prompt.most_tokens else f"{model.name} reads {model.lm.context_length}, so"
        left = f" with {room} to be generated" if room and most != prompt.most_tokens else ""
        raise UserError(f"the text has {len(ids):,} tokens; {why} at most {most:,}{left}; shorten it")
    return torch.tensor(ids)


def shown(model: Model, tokens: Sequence[int]) -> list[dict[str, Any]]:
    """Tokens with their text, as they cross the wire."""
    vocabulary = model.vocabulary
    return [{"id": i, "text": vocabulary.text[i], "special": vocabulary.special[i]} for i in tokens]
