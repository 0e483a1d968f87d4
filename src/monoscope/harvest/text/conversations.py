"""Conversations: text for instruct models, each chat in the model's own template and never joined to another.

FAST, finetuning-aligned sequential training: a conversation formatted by the chat template is one sequence, cut at the
context for memory only. The template's tokens are text that the model was tuned on, and they count.
Source: Li et al. 2025 (arXiv:2506.07691).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, Self

import transformers
from jinja2 import TemplateError
from pydantic import Field, model_validator

from monoscope.core.errors import ConfigError, DataError, nearest
from monoscope.harvest.text.files import find_files, read_values
from monoscope.harvest.text.pack import Bos, TokenWindows
from monoscope.harvest.text.sources import Datasets, Documents, TextSource
from monoscope.models.language_model import LanguageModel

SUFFIXES = (".jsonl", ".jsonl.gz")


class Conversations(TextSource):
    """Chats: each a list of messages ``{"role": "user", "content": "..."}``, from files or a Hugging Face dataset."""

    kind: Literal["conversations"] = "conversations"
    paths: tuple[str, ...] = Field(default=(), description="paths and globs of .jsonl and .jsonl.gz files")
    dataset: str | None = Field(default=None, description="hub id or directory of a dataset, in place of paths")
    name: str | None = Field(default=None, description="configuration of the dataset, where it has several")
    split: str = "train"
    field: str = Field(default="messages", description="where a line or row holds its messages")
    streaming: bool = Field(default=True, description="read a hub dataset as it downloads")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if bool(self.paths) == (self.dataset is not None):
            found = "both" if self.paths else "neither"
            raise ValueError(f"conversations come from paths or from a dataset, found {found}")
        return self

    def build(self, lm: LanguageModel | None = None) -> Iterable[str]:
        """The conversations as the model's chat template writes them, one string each."""
        if lm is None or lm.tokenizer is None:
            raise ConfigError("text of kind 'conversations' needs a model with a tokenizer, whose template formats it")
        tokenizer = lm.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                f"the tokenizer of {lm.name} has no chat template, so it cannot format conversations; name an instruct "
                "model, or save the tokenizer with a chat_template"
            )
        if self.dataset is not None:
            options = self.model_dump(include={"name", "split", "field", "streaming"})
            rows = Datasets(path=self.dataset, **options).rows()
            return Documents(lambda: _formatted(self._of_dataset(rows), tokenizer))
        files = find_files(self.paths)
        for file in files:
            if not file.name.endswith(SUFFIXES):
                raise DataError(f"{file} is not .jsonl or .jsonl.gz; write each conversation as a line of JSON")
        return Documents(
            lambda: _formatted((found for file in files for found in read_values(file, self.field)), tokenizer)
        )

    def windows(
        self, lm: LanguageModel, *, context: int = 256, bos: Bos = "window", tokens: int | None = None
    ) -> TokenWindows:
        """One window for each conversation, cut at ``context``; the template alone decides what it begins with."""
        documents = self.build(lm)
        assert lm.tokenizer is not None, "build has asked for it"
        info = {"text": self.to_dict()}
        return TokenWindows.from_sequences(documents, lm.tokenizer, context=context, tokens=tokens, info=info)

    def _of_dataset(self, rows: Any) -> Iterator[tuple[str, Any]]:
        for number, row in enumerate(rows):
            yield f"dataset {self.dataset}, row {number}", row[self.field]


def _formatted(found: Iterable[tuple[str, Any]], tokenizer: transformers.PreTrainedTokenizerBase) -> Iterator[str]:
    """Conversations as text. Raises DataError, naming the place, for what is none or what the template refuses."""
    for place, messages in found:
        _check(place, messages)
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False)
        except (TemplateError, ValueError, TypeError) as error:
            raise DataError(f"{place}: the chat template refuses this conversation: {error}") from None
        assert isinstance(text, str), "one conversation is one text"
        yield text


def _check(place: str, messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{place}: a conversation is a list of messages, found {messages!r:.60}")
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise DataError(f"{place}, message {number}: expected role and content, found {message!r:.60}")
        for key in ("role", "content"):
            if key not in message:
                raise DataError(f"{place}, message {number}: no {key!r}; {nearest(key, message)}")
