from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from monoscope.demo.examine import (
    WINDOW,
    Predictions,
    closing_brackets,
    closing_quotes,
    complete,
    copies_names,
    predict,
)
from monoscope.demo.pretrain import BOS, train_tokenizer
from monoscope.evals.python_labels import python_labels, unlabelled
from monoscope.models import LanguageModel

TEXT = "".join(
    f"class {name}:\n    def {name}(self):\n        return '{name}'\n" for name in ("alpha", "beta", "gamma")
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(iter([TEXT] * 3), 330)


def model(tokenizer: Tokenizer, kind: type[LanguageModel] = LanguageModel) -> LanguageModel:
    torch.manual_seed(0)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=WINDOW, **size)
    return kind(LlamaForCausalLM(config))


class Copier(LanguageModel):
    """Predicts what followed the last occurrence of the current token."""

    def logits(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        out = torch.zeros(*tokens.shape, self.vocab_size)
        for row, ids in enumerate(tokens.tolist()):
            after: dict[int, int] = {}
            for at, token in enumerate(ids):
                if token in after:
                    out[row, at, after[token]] = 20.0
                if at + 1 < len(ids):
                    after[token] = ids[at + 1]
        return out


def predicted(text: str, cuts: list[str], likeliest: list[str]) -> Predictions:
    """A text cut into tokens, and the tokens that a model would have put there."""
    assert "".join(cuts) == text
    words = sorted({*cuts, *likeliest})
    ends = np.cumsum([len(cut) for cut in cuts]).tolist()
    labels = python_labels(text, list(zip([0, *ends[:-1]], ends, strict=True)))
    ids, top = (np.array([words.index(word) for word in part]) for part in (cuts, likeliest))
    return Predictions(ids, labels, np.zeros(len(ids)), top, words)


def test_brackets_are_judged_where_the_text_or_the_model_closes_one():
    made = predicted(
        "f([a], ')', (b))\n",
        ["f", "(", "[", "a", "],", " '", ")", "',", " (", "b", "))", "\n"],
        ["f", "(", "(", ")", "] ", " '", ")", "',", " (", "b", "] ", ")"],
    )
    # The text closes at "]," and "))"; the model agrees at the first. It proposes ")" after "[a", "]" after "[a",
    # "]" after "(b" and ")" after the last bracket; what it says within the string is not about brackets.
    assert closing_brackets(made) == {"n": 2, "accuracy": 0.5, "proposed": 4, "matching": 0.25}


def test_quotes_are_judged_where_one_ends_a_string():
    made = predicted("a = \"b\" + 'c'\n", ["a", " =", ' "', "b", '"', " +", " '", "c", "'", "\n"], list('="bb"+""""'))
    assert closing_quotes(made) == {"n": 2, "accuracy": 0.5}


def test_shares_of_nothing_are_null():
    empty = Predictions(np.zeros(1, int), unlabelled(1), np.zeros(1), np.zeros(1, int), ["a"])
    assert closing_brackets(empty)["accuracy"] is None
    assert closing_quotes(empty) == {"n": 0, "accuracy": None}


def test_predictions_are_the_models_in_windows_behind_bos(tokenizer):
    lm, ids = model(tokenizer), np.array(tokenizer.encode(TEXT * 20).ids)
    made = predict(lm, tokenizer, ids, unlabelled(len(ids)))
    n = len(ids) // WINDOW * WINDOW
    assert np.array_equal(made.ids, ids[:n])
    assert len(made.labels) == n
    read = torch.tensor([tokenizer.token_to_id(BOS), *ids[WINDOW : 2 * WINDOW - 1]])[None]
    log_p = lm.logits(read).log_softmax(-1)[0]
    np.testing.assert_allclose(
        made.nll[WINDOW : 2 * WINDOW], -log_p[range(WINDOW), ids[WINDOW : 2 * WINDOW]].detach(), rtol=1e-4
    )
    assert np.array_equal(made.top[WINDOW : 2 * WINDOW], log_p.argmax(-1))
    assert made.words[int(made.ids[0])] == "class"


def test_a_model_that_copies_is_told_from_one_that_does_not(tokenizer):
    words = [tokenizer.decode([token]) for token in range(tokenizer.get_vocab_size())]
    copier = copies_names(model(tokenizer, Copier), tokenizer, words, n_names=40)
    assert copier["accuracy"] > 0.8, "a token that occurs twice in a name leads astray"
    assert copier["accuracy_elsewhere"] < 0.2
    assert copier["nats"] < copier["nats_elsewhere"]
    untrained = copies_names(model(tokenizer), tokenizer, words, n_names=40)
    assert abs(untrained["accuracy"] - untrained["accuracy_elsewhere"]) < 0.1


def test_completions_are_text(tokenizer):
    completion = complete(model(tokenizer, Copier), tokenizer, "return a; return", n_tokens=2)
    assert isinstance(completion, str)
