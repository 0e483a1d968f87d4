"""Documents of files, datasets, the standard library, and the model itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from pydantic import Field

from monoscope.core.config import Config
from monoscope.core.errors import ConfigError, DataError, ModelError, nearest
from monoscope.harvest.text.files import find_files, read_documents
from monoscope.harvest.text.pack import Bos, TokenWindows
from monoscope.harvest.text.standard_library import Split, standard_library_root, standard_library_texts
from monoscope.models.language_model import LanguageModel


class TextSource(Config, family="text"):
    """Where documents come from."""

    def build(self, lm: LanguageModel | None = None) -> Iterable[str]:
        """The documents, from the start each time they are iterated; what is missing raises DataError at once."""
        raise NotImplementedError

    def windows(
        self, lm: LanguageModel, *, context: int = 256, bos: Bos = "window", tokens: int | None = None
    ) -> TokenWindows:
        """The documents, tokenized for a model and packed; see ``TokenWindows.from_text``."""
        if lm.tokenizer is None:
            raise ModelError(f"the model {lm.name!r} has no tokenizer, so it cannot read text; give it token windows")
        info = {"text": self.to_dict()}
        return TokenWindows.from_text(self.build(lm), lm.tokenizer, context=context, bos=bos, tokens=tokens, info=info)


@dataclass(frozen=True)
class Documents:
    """Documents that can be read again."""

    read: Callable[[], Iterator[str]]

    def __iter__(self) -> Iterator[str]:
        return self.read()


class Files(TextSource):
    """Text files by paths and globs, one after another."""

    kind: Literal["files"] = "files"
    paths: tuple[str, ...] = Field(min_length=1, description="paths and globs of .txt .jsonl .jsonl.gz .parquet files")
    field: str = Field(default="text", description="where .jsonl objects and .parquet rows hold their text")

    def build(self, lm: LanguageModel | None = None) -> Iterable[str]:
        """One document for each .txt file, .jsonl line or .parquet row."""
        files = find_files(self.paths)
        return Documents(lambda: (text for path in files for text in read_documents(path, self.field)))


class Datasets(TextSource):
    """A split of a Hugging Face dataset; needs the package ``datasets``."""

    kind: Literal["datasets"] = "datasets"
    path: str = Field(description="hub id, directory of data files, or directory written by save_to_disk")
    name: str | None = Field(default=None, description="configuration of the dataset, where it has several")
    split: str = "train"
    field: str = "text"
    streaming: bool = Field(default=True, description="read a hub dataset as it downloads")

    def build(self, lm: LanguageModel | None = None) -> Iterable[str]:
        """One document for each row."""
        rows = self.rows()
        return Documents(lambda: self._texts(rows))

    def rows(self) -> Any:
        """The rows, all of which have the field. Raises DataError where there are none."""
        try:
            import datasets
        except ImportError:
            raise ConfigError("text of kind 'datasets' needs a package: pip install 'monoscope[datasets]'") from None
        rows = self._open(datasets)
        if rows.column_names is not None and self.field not in rows.column_names:
            raise DataError(
                f"dataset {self.path} has no field {self.field!r}; {nearest(self.field, rows.column_names)}"
            )
        return rows

    def _open(self, datasets: Any) -> Any:
        try:
            if any((Path(self.path) / name).is_file() for name in ("state.json", "dataset_dict.json")):
                found = datasets.load_from_disk(self.path)
            else:
                streaming = self.streaming and not Path(self.path).exists()
                found = datasets.load_dataset(self.path, self.name, streaming=streaming)
        # The package raises errors of many kinds (its own, the hub's, the network's), all of which mean this.
        except Exception as error:
            raise DataError(f"cannot load the dataset {self.path}: {str(error).strip().splitlines()[0]}") from error
        if isinstance(found, dict):
            if self.split not in found:
                raise DataError(f"dataset {self.path} has no split {self.split!r}; {nearest(self.split, found)}")
            found = found[self.split]
        return found

    def _texts(self, rows: Any) -> Iterator[str]:
        for number, row in enumerate(rows):
            text = row.get(self.field)
            if not isinstance(text, str):
                found = type(text).__name__
                raise DataError(f"dataset {self.path}, row {number}: field {self.field!r} is {found}, not text")
            if text:
                yield text


class StandardLibrary(TextSource):
    """The sources of the running Python's standard library: text that is always there."""

    kind: Literal["standard_library"] = "standard_library"
    split: Split = "train"

    def build(self, lm: LanguageModel | None = None) -> Iterable[str]:
        """One document for each source file of the split, in an order that makes any beginning of it a fair sample."""
        root = standard_library_root()
        if next(standard_library_texts(self.split, root), None) is None:
            raise DataError(f"this Python carries no readable sources of its standard library at {root}")
        return Documents(lambda: standard_library_texts(self.split, root, mixed=True))


class Sampled(TextSource):
    """Text that the model writes itself, from nothing or from a prompt; a document ends at the end-of-text token."""

    kind: Literal["sampled"] = "sampled"
    documents: int = Field(default=1024, ge=1)
    tokens: int = Field(default=256, ge=1, description="most tokens written in a document")
    prompt: str = ""
    temperature: float = Field(default=1.0, gt=0)
    top_k: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    at_once: int = Field(default=32, ge=1, description="documents written side by side")

    def build(self, lm: LanguageModel | None = None) -> Iterable[str]:
        """The prompt and what the model makes of it, ``documents`` times."""
        if lm is None or lm.tokenizer is None:
            raise ConfigError("text of kind 'sampled' needs a model with a tokenizer to write it")
        start = [] if lm.bos_token_id is None else [lm.bos_token_id]
        start += lm.tokenizer(self.prompt, add_special_tokens=False)["input_ids"]
        if not start:
            raise ConfigError("the model has no beginning-of-sequence token to start from; set a prompt")
        tokenizer = lm.tokenizer
        return Documents(lambda: (_decode(tokenizer, row, len(start)) for row in self._rows(lm, start)))

    def _rows(self, lm: LanguageModel, start: list[int]) -> Iterator[list[int]]:
        for first in range(0, self.documents, self.at_once):
            n = min(self.at_once, self.documents - first)
            yield from lm.generate(
                torch.tensor([start] * n, device=lm.device),
                max_new_tokens=self.tokens,
                temperature=self.temperature,
                top_k=self.top_k,
                seed=self.seed + first,
            ).tolist()


def _decode(tokenizer: transformers.PreTrainedTokenizerBase, row: list[int], start: int) -> str:
    """Text of a generated row up to the first end-of-text token after its start."""
    end = row.index(tokenizer.eos_token_id, start) if tokenizer.eos_token_id in row[start:] else len(row)
    text = tokenizer.decode(row[:end], skip_special_tokens=True)
    assert isinstance(text, str), "one row decodes to one text"
    return text
