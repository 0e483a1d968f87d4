"""Examine a language model of Python: is it worth looking into?

    python -m monoscope.demo.examine DIRECTORY        # a model in the Hugging Face layout, with its tokenizer

On the standard library's held-out files, of which training saw nothing: cross-entropy against a trigram model of the
training files on the same tokens, and what it knows of brackets and quotes; on made-up text, whether it copies names.
Writes ``figures.json`` beside the weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from jaxtyping import Bool, Float, Int
from tokenizers import Encoding, Tokenizer

from monoscope.core.errors import DataError, ModelError
from monoscope.core.io import write_json
from monoscope.core.progress import progress
from monoscope.demo.pretrain import BOS
from monoscope.demo.trigram import Trigram
from monoscope.evals.python_labels import CATEGORIES, PythonLabels, python_labels, unlabelled
from monoscope.harvest.text.standard_library import Split, standard_library_texts
from monoscope.models import LanguageModel

WINDOW = 256  # tokens predicted in each window; the first of them from the beginning-of-sequence token alone
TEXTS_AT_ONCE = 64
FOR_LOOP = "for i in"
PROMPTS = (FOR_LOOP, "import os\nprint(os.path.join(a[0], b", "def main():\n    print('hello", "class Box(object")
# A name stands in three places; the third is to be copied from the others.
COPYING = (
    "class Box:\n    def __init__(self):\n        self.",
    " = None\n        self.size = 0\n\n    def get(self):\n        if self.",
    " is None:\n            return 0\n        return self.",
)
NAME_TOKENS = 3


@dataclass(frozen=True)
class Predictions:
    """What a model predicts on held-out tokens, and what they are.

    ids, labels: the tokens; nll: nats each cost; top: the token the model found likeliest instead or rightly
    words: text of every token of the vocabulary
    """

    ids: Int[np.ndarray, " n"]
    labels: PythonLabels
    nll: Float[np.ndarray, " n"]
    top: Int[np.ndarray, " n"]
    words: list[str]

    def starts(self, ids: Int[np.ndarray, " n"]) -> np.ndarray:
        """First character of each token behind its blanks; empty for a token of blanks."""
        return np.array([word.lstrip()[:1] for word in self.words])[ids]


def examine(directory: Path) -> dict[str, Any]:
    """Figures of the model in a directory, as JSON values."""
    lm = LanguageModel.from_pretrained(directory)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    train = np.concatenate([ids for ids, _ in _documents(tokenizer, "train", labelled=False)])
    trigram = Trigram(train, lm.vocab_size)
    ids, labels = zip(*_documents(tokenizer, "held_out", labelled=True), strict=True)
    made = predict(lm, tokenizer, np.concatenate(ids), PythonLabels.concatenate(labels))
    # The first two tokens have no trigram; everything is compared on the others.
    by_trigram = -trigram.log_prob(made.ids)
    completions = {prompt: complete(lm, tokenizer, prompt) for prompt in PROMPTS}
    return {
        "parameters": sum(parameter.numel() for parameter in lm.hf.parameters()),
        "held_out_tokens": len(by_trigram),
        "cross_entropy": {"model": float(made.nll[2:].mean()), "trigram": float(by_trigram.mean())},
        "trigram": {"smoothing": "interpolated modified Kneser-Ney", "training_tokens": len(train)},
        "top1_accuracy": float((made.top == made.ids).mean()),
        "closing_brackets": closing_brackets(made),
        "closing_quotes": closing_quotes(made),
        "completions": completions,
        "completes_for_with_range": completions[FOR_LOOP].startswith(" range("),
        "copies_names": copies_names(lm, tokenizer, made.words),
    }


def _documents(
    tokenizer: Tokenizer, split: Split, *, labelled: bool
) -> Iterator[tuple[Int[np.ndarray, " n"], PythonLabels]]:
    """Tokens of each document of a split behind a beginning-of-sequence token, and their labels, or none."""
    bos = _bos(tokenizer)
    texts = list(standard_library_texts(split))
    with progress(f"tokenize {split.replace('_', ' ')} files", len(texts), "files") as bar:
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            part = texts[start : start + TEXTS_AT_ONCE]
            for text, encoding in zip(part, tokenizer.encode_batch(part), strict=True):
                labels = [unlabelled(1), _labels(text, encoding)] if labelled else []
                yield np.array([bos, *encoding.ids]), PythonLabels.concatenate(labels)
            bar.advance(len(part))


def _bos(tokenizer: Tokenizer) -> int:
    bos = tokenizer.token_to_id(BOS)
    if bos is None:
        raise ModelError(f"the tokenizer has no {BOS}: this is not a model that monoscope.demo.pretrain trained")
    return bos


def _labels(text: str, encoding: Encoding) -> PythonLabels:
    try:
        return python_labels(text, encoding.offsets)
    except DataError:  # the library's tests carry files that are broken on purpose
        return unlabelled(len(encoding.ids))


@torch.no_grad()
def predict(lm: LanguageModel, tokenizer: Tokenizer, ids: Int[np.ndarray, " n"], labels: PythonLabels) -> Predictions:
    """Predictions on a stream of tokens, cut into windows as in training; the incomplete last window is left out."""
    bos, n_windows = _bos(tokenizer), len(ids) // WINDOW
    windows = torch.from_numpy(ids[: n_windows * WINDOW]).reshape(n_windows, WINDOW)
    nll, top = [], []
    with progress("predict", windows.numel()) as bar:
        for wanted in windows.split(16):
            read = torch.cat([torch.full_like(wanted[:, :1], bos), wanted[:, :-1]], dim=1)
            log_p = lm.logits(read).float().log_softmax(-1)
            nll.append(-log_p.gather(-1, wanted[..., None]).flatten())
            top.append(log_p.argmax(-1).flatten())
            bar.advance(wanted.numel(), nats=float(nll[-1].mean()))
    words = [tokenizer.decode([token], skip_special_tokens=False) for token in range(lm.vocab_size)]
    kept = labels.take(np.arange(windows.numel()))
    return Predictions(windows.flatten().numpy(), kept, torch.cat(nll).double().numpy(), torch.cat(top).numpy(), words)


def closing_brackets(made: Predictions) -> dict[str, Any]:
    """How well the model closes brackets.

    accuracy: where the text closes one, the likeliest token closes one of the same kind
    matching: where the likeliest token closes a bracket, one of that kind is the innermost that is open
    """
    wanted, likeliest, labels = made.starts(made.ids), made.starts(made.top), made.labels
    closes = labels["close_bracket"] & np.isin(wanted, list(")]}"))
    before = labels.take(np.arange(len(made.ids)) - 1)
    in_code = before["parsed"] & ~before["comment"] & (~before["string"] | before["string_close"])
    proposes = in_code & np.isin(likeliest, list(")]}"))
    kinds = np.array([")]}".find(character) for character in likeliest])
    assert CATEGORIES["bracket"] == tuple("([{")
    return {
        "n": int(closes.sum()),
        "accuracy": _share(likeliest == wanted, closes),
        "proposed": int(proposes.sum()),
        "matching": _share(kinds == before["bracket"], proposes),
    }


def closing_quotes(made: Predictions) -> dict[str, Any]:
    """How well the model closes strings.

    accuracy: where a quote ends a string, the likeliest token begins with the same quote
    """
    words = np.array([word[:1] for word in made.words])
    wanted, likeliest = words[made.ids], words[made.top]
    labels = made.labels
    closes = labels["string_close"] & ~labels["string_open"] & np.isin(wanted, ["'", '"'])
    return {"n": int(closes.sum()), "accuracy": _share(likeliest == wanted, closes)}


def _share(true: Bool[np.ndarray, " n"], among: Bool[np.ndarray, " n"]) -> float | None:
    return float(true[among].mean()) if among.any() else None


def complete(lm: LanguageModel, tokenizer: Tokenizer, prompt: str, n_tokens: int = 12) -> str:
    """The likeliest continuation of a prompt that opens a document."""
    tokens = torch.tensor([[_bos(tokenizer), *tokenizer.encode(prompt).ids]])
    return tokenizer.decode(lm.generate(tokens, max_new_tokens=n_tokens)[0, tokens.shape[1] :].tolist())


@torch.no_grad()
def copies_names(
    lm: LanguageModel, tokenizer: Tokenizer, words: Iterable[str], n_names: int = 256
) -> dict[str, float | int]:
    """Whether a name of random tokens that occurred twice is completed where it begins for the third time.

    accuracy, nats: per token of the names but the first
    accuracy_elsewhere, nats_elsewhere: the same where another name occurred in its place: what copying has to beat
    """
    tokens = [token for token, word in enumerate(words) if re.fullmatch("[a-z]{2,}", word)]
    names = np.random.default_rng(0).choice(tokens, (n_names, NAME_TOKENS))
    others = np.roll(names, 1, axis=0)
    out: dict[str, float | int] = {"names": n_names, "chance": 1 / lm.vocab_size}
    for suffix, before in (("", names), ("_elsewhere", others)):
        parts = [np.full((n_names, 1), _bos(tokenizer))]
        for text, name in zip(COPYING, (before, before, names), strict=True):
            parts += [np.tile(tokenizer.encode(text).ids, (n_names, 1)), name]
        ids = torch.from_numpy(np.concatenate(parts, axis=1))
        log_p = lm.logits(ids)[:, -NAME_TOKENS:-1].float().log_softmax(-1)
        wanted = ids[:, -NAME_TOKENS + 1 :]
        out["accuracy" + suffix] = float((log_p.argmax(-1) == wanted).float().mean())
        out["nats" + suffix] = float(-log_p.gather(-1, wanted[..., None]).mean())
    return out


def main(
    directory: Annotated[Path, typer.Argument(help="A model in the Hugging Face layout.")],
    out: Annotated[
        Path | None, typer.Option(help="JSON file to write; figures.json in the directory if not given.")
    ] = None,
) -> None:
    """Examine a language model of Python."""
    figures = examine(directory)
    write_json(out or directory / "figures.json", figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    typer.run(main)
