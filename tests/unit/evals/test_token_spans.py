from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from monoscope.core.errors import DataError
from monoscope.evals.token_spans import byte_level_spans


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["def f(self, x):\n    return größe + 日本語\n"] * 3, trainer)
    return tokenizer


@given(text=st.text())
def test_spans_are_the_fast_tokenizers_offsets(tokenizer, text):
    encoding = tokenizer.encode(text)
    assert byte_level_spans(encoding.tokens, text).tolist() == [list(offset) for offset in encoding.offsets]


def test_special_tokens_cover_nothing():
    assert byte_level_spans(["<s>", "a", "Ġ", "<s>"], "a ", specials={"<s>"}).tolist() == [
        [0, 0],
        [0, 1],
        [1, 2],
        [2, 2],
    ]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["a", "c"], "token 1 is 'c' where the text reads 'b'"),
        (["a"], "the text goes on: 'b'"),
        (["a", "b", "b"], "token 2"),
    ],
)
def test_tokens_of_another_text_are_an_error(tokens, message):
    with pytest.raises(DataError, match=message):
        byte_level_spans(tokens, "ab")
