"""FAST: a conversation is one sequence, in the model's own template."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_text_model import CHAT_TEMPLATE, chats, tiny_lm, tiny_tokenizer

from monoscope.core.errors import ConfigError, DataError, MismatchError
from monoscope.harvest import Conversations, SkipPolicy, TokenWindows, harvest, live, shuffle
from monoscope.models import LanguageModel

BOS, EOS = 1, 2
SITES = ["0.resid_post"]
ALL = SkipPolicy(first=0)  # every token of a conversation


def chat_lm(template: str = CHAT_TEMPLATE) -> LanguageModel:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return LanguageModel(tiny_lm().hf, tokenizer, "tiny chat")


@pytest.fixture
def source(tmp_path: Path) -> Conversations:
    lines = [json.dumps({"messages": messages}) for messages in chats(40)]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    return Conversations(paths=(str(tmp_path / "*.jsonl"),))


def rendered(messages: list[dict[str, str]]) -> str:
    return "".join(f"<bos>{message['role']}\n{message['content']}<eos>\n" for message in messages)


def ids(text: str) -> list[int]:
    return tiny_tokenizer()(text, add_special_tokens=False)["input_ids"]


def rows(windows: TokenWindows) -> list[list[int]]:
    return [row[mask].tolist() for row, mask in zip(windows.tokens, windows.mask, strict=True)]


def test_a_window_is_one_conversation_in_the_template(source: Conversations) -> None:
    windows = source.windows(chat_lm(), context=64)
    assert rows(windows) == [ids(rendered(messages)) for messages in chats(40)]
    assert all(row[0] == BOS and EOS in row for row in rows(windows))
    assert windows.documents.tolist() == list(range(40))
    assert windows.context == max(map(len, rows(windows)))
    assert not windows.mask.all()
    assert windows.info["cut_tokens"] == 0


def test_long_conversations_are_cut_and_never_split(source: Conversations) -> None:
    whole = [ids(rendered(messages)) for messages in chats(40)]
    windows = source.windows(chat_lm(), context=20)
    assert rows(windows) == [row[:20] for row in whole]
    assert windows.info["cut_tokens"] == sum(max(0, len(row) - 20) for row in whole) > 0


def test_reading_stops_with_the_conversation_that_reaches_the_tokens(source: Conversations) -> None:
    windows = source.windows(chat_lm(), context=64, tokens=100)
    assert windows.n_tokens >= 100
    assert windows[:-1].n_tokens < 100


def test_rows_of_similar_length_stand_together(source: Conversations) -> None:
    windows = source.windows(chat_lm(), context=64)
    mixed = windows.shuffled(0, at_once=8)
    assert sorted(rows(mixed)) == sorted(rows(windows))
    assert rows(windows.shuffled(0, at_once=8)) == rows(mixed)
    assert rows(windows.shuffled(1, at_once=8)) != rows(mixed)

    def padding(made: TokenWindows) -> int:
        return sum(int((~made[first : first + 8].trimmed().mask).sum()) for first in range(0, len(made), 8))

    assert padding(mixed) < 0.3 * padding(windows.shuffled(0))
    lengths = [len(row) for row in rows(mixed)]
    assert lengths != sorted(lengths)


def test_the_model_reads_no_further_than_the_longest(source: Conversations) -> None:
    lm = chat_lm()
    windows = source.windows(lm, context=64).shuffled(0, at_once=8)
    for batch in live(lm, windows, SITES, windows_per_batch=8, skip=ALL):
        assert batch.mask is not None
        assert batch.tokens is not None
        assert batch.mask.any(0).all()
        (x,) = batch.activations.values()
        for row, tokens, mask in zip(x, batch.tokens, batch.mask, strict=True):
            alone = lm.read(tokens[mask][None].long(), SITES)
            assert torch.allclose(row[mask], next(iter(alone.values()))[0], atol=1e-5)


def test_every_token_leaves_the_shuffle_once(source: Conversations) -> None:
    lm = chat_lm()
    windows = source.windows(lm, context=64)
    mixed = windows.shuffled(0, at_once=8)
    stream = shuffle(live(lm, mixed, SITES, windows_per_batch=8, skip=ALL), 200, seed=3, batch_tokens=32)
    left = Counter()
    for batch in stream:
        assert batch.tokens is not None
        assert batch.positions is not None
        left.update(zip(batch.tokens.tolist(), batch.positions.tolist(), strict=True))
    assert left == Counter((token, place) for row in rows(windows) for place, token in enumerate(row))
    assert stream.n_tokens == windows.n_tokens


def test_template_tokens_count_unless_they_are_left_out(source: Conversations) -> None:
    lm = chat_lm()
    windows = source.windows(lm, context=64)
    special = int(torch.isin(windows.tokens, torch.tensor([BOS, EOS])).sum())
    default = live(lm, windows, SITES)
    assert default.n_tokens == windows.n_tokens - len(windows)
    assert default.info["skip"] == {"special": False, "first": 1, "not_finite": False}
    without = live(lm, windows, SITES, skip=SkipPolicy(special=True, first=0))
    assert without.n_tokens == windows.n_tokens - special
    assert (
        live(tiny_lm(), TokenWindows.from_text(["a b"], tiny_tokenizer(), context=8), SITES).info["skip"]["special"]
        is True
    )


def test_tokens_that_the_tokenizer_was_given_as_special_are_special() -> None:
    lm = chat_lm()
    assert lm.tokenizer is not None
    lm.tokenizer.add_tokens(["<turn>"], special_tokens=True)
    lm.tokenizer.add_tokens(["plain"])
    windows = TokenWindows.from_tokens(torch.tensor([[1, 40, 41]]))
    lm = LanguageModel(lm.hf, lm.tokenizer, "more tokens")
    source = live(lm, windows, SITES)
    assert lm.tokenizer is not None
    assert lm.tokenizer.convert_tokens_to_ids("<turn>") in source._special  # pyright: ignore[reportAttributeAccessIssue]
    assert lm.tokenizer.convert_tokens_to_ids("plain") not in source._special  # pyright: ignore[reportAttributeAccessIssue]


def test_conversations_are_stored_by_tokens(source: Conversations, tmp_path: Path) -> None:
    lm = chat_lm()
    windows = source.windows(lm, context=64)
    reading = live(lm, windows, SITES, windows_per_batch=8)
    with pytest.raises(MismatchError, match=r"sequences of several, .* harvest\(shuffle\(source\), path\)"):
        harvest(reading, tmp_path / "rows")
    store = harvest(shuffle(live(lm, windows, SITES, windows_per_batch=8), 200), tmp_path / "acts")
    assert store.n_tokens == reading.n_tokens == sum(batch.n_tokens for batch in store)


def test_packed_windows_are_saved_with_their_packing(source: Conversations, tmp_path: Path) -> None:
    source.windows(chat_lm(), context=64).save(tmp_path / "tokens")
    assert TokenWindows.load(tmp_path / "tokens").by_sequence


def test_compressed_files_and_other_fields(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"turns": messages}) + "\n" for messages in chats(3))
    source = Conversations(paths=(str(tmp_path / "a.jsonl.gz"),), field="turns")
    assert list(source.build(chat_lm())) == [rendered(messages) for messages in chats(3)]


def test_a_dataset_of_conversations(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    datasets.Dataset.from_dict({"messages": chats(5)}).save_to_disk(tmp_path / "saved")
    source = Conversations(dataset=str(tmp_path / "saved"))
    assert list(source.build(chat_lm())) == [rendered(messages) for messages in chats(5)]


def test_a_tokenizer_without_template_is_an_error(source: Conversations) -> None:
    with pytest.raises(ConfigError, match="the tokenizer of tiny has no chat template, .* name an instruct model"):
        source.build(tiny_lm())
    with pytest.raises(ConfigError, match="needs a model with a tokenizer"):
        source.build()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"messages": []}, r"line 1: a conversation is a list of messages, found \[\]"),
        ({"messages": "hello"}, "a list of messages, found 'hello'"),
        ({"messages": ["hello"]}, "message 0: expected role and content, found 'hello'"),
        ({"messages": [{"role": "user", "contents": "a"}]}, "message 0: no 'content'; did you mean 'contents'?"),
        ({"message": []}, "no field 'messages'; did you mean 'message'?"),
    ],
)
def test_what_is_no_conversation_is_named(tmp_path: Path, line: Any, says: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    with pytest.raises(DataError, match=says):
        list(Conversations(paths=(str(tmp_path / "a.jsonl"),)).build(chat_lm()))


def test_what_the_template_refuses_is_named(source: Conversations) -> None:
    strict = chat_lm("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match=r"chats.jsonl, line 1: the chat template refuses .*: roles must alternate"):
        list(source.build(strict))


def test_where_conversations_come_from(tmp_path: Path) -> None:
    for table, found in (({}, "neither"), ({"paths": ["a.jsonl"], "dataset": "b"}, "both")):
        with pytest.raises(ConfigError, match=f"from paths or from a dataset, found {found}"):
            Conversations.from_dict({"kind": "conversations"} | table)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(DataError, match="not .jsonl"):
        Conversations(paths=(str(tmp_path / "a.txt"),)).build(chat_lm())
