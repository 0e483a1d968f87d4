from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_text_model import tiny_tokenizer

from monoscope.core.errors import ConfigError, DataError, MismatchError, OutputError
from monoscope.harvest import TokenWindows
from monoscope.harvest.text import encode

PAD, BOS, EOS = 0, 1, 2
DOCUMENTS = ["the cat", "sat on the mat. " * 6, "", "a dog"]


def ids(text: str) -> list[int]:
    return tiny_tokenizer()(text, add_special_tokens=False)["input_ids"]


def windows(documents: Iterable[str] = DOCUMENTS, **options: Any) -> TokenWindows:
    return TokenWindows.from_text(documents, tiny_tokenizer(), **{"context": 8, **options})


def stream(made: TokenWindows, skipped: int = 0) -> list[int]:
    return made.tokens[:, skipped:][made.mask[:, skipped:]].tolist()


def test_each_window_opens_with_bos_and_nothing_is_lost() -> None:
    made = windows()
    assert (made.tokens[:, 0] == BOS).all()
    a, b, _, d = map(ids, DOCUMENTS)
    assert stream(made, 1) == [*a, EOS, *b, EOS, *d]


def test_bos_before_each_document_only() -> None:
    made = windows(bos="document")
    a, b, _, d = map(ids, DOCUMENTS)
    assert stream(made) == [BOS, *a, BOS, *b, BOS, *d]


def test_without_bos_only_the_separator_is_added() -> None:
    made = windows(bos="none")
    a, b, _, d = map(ids, DOCUMENTS)
    assert stream(made) == [*a, EOS, *b, EOS, *d]


def test_a_tokenizer_without_special_tokens_adds_none() -> None:
    made = TokenWindows.from_text(DOCUMENTS, tiny_tokenizer(unk_token="<pad>"), context=8, bos="none")
    assert stream(made) == [token for document in DOCUMENTS for token in ids(document)]


def test_a_policy_the_tokenizer_cannot_follow_is_an_error() -> None:
    with pytest.raises(ConfigError, match='no beginning-of-sequence token; write bos = "none"'):
        TokenWindows.from_text(DOCUMENTS, tiny_tokenizer(eos_token="<eos>"))


def test_bert_opens_with_its_classifier_token() -> None:
    made = TokenWindows.from_text(["a", "b"], tiny_tokenizer(cls_token="<bos>", sep_token="<eos>"), context=8)
    assert stream(made) == [BOS, *ids("a"), EOS, *ids("b")]


def test_the_last_window_is_padded_and_masked() -> None:
    made = windows(["the cat"], context=16)
    n = len(ids("the cat")) + 1
    assert made.mask[0].tolist() == [True] * n + [False] * (16 - n)
    assert (made.tokens[0, n:] == PAD).all()
    assert made.n_tokens == n


def test_a_text_that_fills_its_windows_has_no_padding() -> None:
    made = windows(["x" * 14])
    assert len(made) == 2
    assert made.mask.all()


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any), st.integers(2, 12))
def test_windows_name_the_document_they_begin_in(lengths: list[int], context: int) -> None:
    texts = [chr(ord("a") + i) * n for i, n in enumerate(lengths)]
    made = windows(texts, context=context, bos="none")
    owner = [i for i, n in enumerate(lengths) for _ in range(n + bool(n and any(lengths[:i])))]
    assert made.documents.tolist() == owner[::context]
    assert made.n_tokens == len(owner)


def test_documents_in_several_tokenizer_batches_are_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = windows()
    monkeypatch.setattr(encode, "BATCH_DOCUMENTS", 1)
    parts = windows()
    assert torch.equal(whole.tokens, parts.tokens)
    assert torch.equal(whole.documents, parts.documents)


def test_reading_stops_once_there_are_enough_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "BATCH_DOCUMENTS", 1)
    rest = iter(["the cat sat on the mat. " * 3] * 100)
    made = windows(rest, tokens=50)
    assert len(made) == 7
    assert made.mask.all()
    assert len(list(rest)) > 90


def test_tokenizer_files_that_truncate_or_pad_lose_and_add_nothing() -> None:
    tokenizer = tiny_tokenizer()
    expected = TokenWindows.from_text(DOCUMENTS, tokenizer, context=8)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    assert torch.equal(TokenWindows.from_text(DOCUMENTS, tokenizer, context=8).tokens, expected.tokens)


@pytest.mark.parametrize("documents", [[], [""], ["", ""]])
def test_text_without_a_token_is_an_error(documents: list[str]) -> None:
    with pytest.raises(DataError, match="there is no text"):
        windows(documents)


def test_a_window_needs_room_for_text() -> None:
    with pytest.raises(ConfigError, match="at least 2, found 1"):
        windows(context=1)


def test_shuffling_changes_the_order_alone() -> None:
    made = windows(["the cat sat on the mat. " * 40])
    mixed = made.shuffled(0)
    assert not torch.equal(mixed.tokens, made.tokens)
    assert torch.equal(made.shuffled(0).tokens, mixed.tokens)
    assert not torch.equal(made.shuffled(1).tokens, mixed.tokens)
    rows = sorted(zip(made.tokens.tolist(), made.mask.tolist(), made.documents.tolist(), strict=True))
    assert sorted(zip(mixed.tokens.tolist(), mixed.mask.tolist(), mixed.documents.tolist(), strict=True)) == rows


def test_slices_are_windows() -> None:
    made = windows()
    part = made[1:3]
    assert len(part) == 2
    assert torch.equal(part.tokens, made.tokens[1:3])
    assert part.fingerprint != made.fingerprint
    assert part.info == made.info


def test_token_ids_can_be_given() -> None:
    made = TokenWindows.from_tokens(torch.arange(12).reshape(3, 4))
    assert made.tokens.dtype == torch.int32
    assert made.documents.tolist() == [0, 1, 2]
    assert made.n_tokens == 12
    with pytest.raises(DataError, match="not empty"):
        TokenWindows.from_tokens(torch.zeros(0, 4, dtype=torch.int64))


def test_a_saved_file_is_the_same_windows(tmp_path: Path) -> None:
    made = windows()
    made.save(tmp_path / "tokens")
    again = TokenWindows.load(tmp_path / "tokens")
    assert again.fingerprint == made.fingerprint
    assert torch.equal(again.documents, made.documents)
    assert again.info == made.info
    with pytest.raises(OutputError, match="exists"):
        made.save(tmp_path / "tokens")


def test_a_changed_file_is_an_error(tmp_path: Path) -> None:
    windows().save(tmp_path / "tokens")
    file = tmp_path / "tokens" / "tokens.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match="was changed after it was written"):
        TokenWindows.load(tmp_path / "tokens")
    file.write_bytes(data[:-5])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        TokenWindows.load(tmp_path / "tokens")


def test_windows_of_another_tokenizer_are_refused() -> None:
    tokenizer = tiny_tokenizer()
    made = windows()
    made.check_tokenizer(tokenizer)
    tokenizer.add_tokens(["new"])
    with pytest.raises(MismatchError, match="the vocabularies differ"):
        made.check_tokenizer(tokenizer)
