"""Harvests by several processes: one store, the same rows in the same order, whoever was killed on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harvest_sources import SITES, Fragile, Interrupted, source
from tiny_text_model import chats, tiny_lm, tiny_tokenizer

from monoscope.core.errors import MismatchError, OutputError
from monoscope.core.io import owned
from monoscope.harvest import ActivationSource, ActivationStore, TokenWindows, harvest, live, shuffle
from monoscope.harvest.writer import harvest_part


def shared(path: Path, ranks: int, **options: Any) -> ActivationStore:
    for rank in range(1, ranks):
        harvest_part(source(), path, rank, ranks, shard_tokens=64, **options)
    return harvest(source(), path, ranks=ranks, shard_tokens=64, **options)


@pytest.fixture
def alone(tmp_path: Path) -> ActivationStore:
    return harvest(source(), tmp_path / "alone", shard_tokens=64)


def column(store: ActivationStore, name: str) -> torch.Tensor:
    batches = list(store)
    return torch.cat(
        [getattr(batch, name) if name == "tokens" else batch.activations[store.sites[1]] for batch in batches]
    )


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_processes_stores_the_same(tmp_path: Path, alone: ActivationStore, ranks: int) -> None:
    store = shared(tmp_path / "acts", ranks)
    assert torch.equal(column(store, "tokens"), column(alone, "tokens"))
    torch.testing.assert_close(column(store, "activations"), column(alone, "activations"), rtol=0, atol=0)
    assert (store.n_tokens, store.sites, store.widths) == (alone.n_tokens, alone.sites, alone.widths)
    assert {**store.info, "fingerprint": ""} == {**alone.info, "fingerprint": ""}
    left = {file.name for file in store.path.rglob("*") if file.is_file()}
    assert left == {"manifest.json", *(Path(shard.file).name for shard in store.shards)}
    assert not (tmp_path / "acts.partial").exists()


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_a_process_that_broke_goes_on_and_the_others_stay(tmp_path: Path, alone: ActivationStore, batches: int) -> None:
    path = tmp_path / "acts"
    harvest_part(source(), path, 1, 3, shard_tokens=64)
    with pytest.raises(Interrupted):
        harvest_part(Fragile(source(), batches), path, 2, 3, shard_tokens=64)
    for rank in (1, 2):  # all are started again
        resumed = Fragile(source(), 100)
        harvest_part(resumed, path, rank, 3, shard_tokens=64)
        n = len(list(source().part(rank, 3)))
        assert 100 - resumed.own.left == (0 if rank == 1 else n - 2 * (batches // 2))
    store = harvest(source(), path, ranks=3, shard_tokens=64)
    assert torch.equal(column(store, "tokens"), column(alone, "tokens"))


def test_another_number_of_processes_does_not_go_on(tmp_path: Path, alone: ActivationStore) -> None:
    path = tmp_path / "acts"
    harvest_part(source(), path, 1, 3, shard_tokens=64)
    for ranks in (1, 2):
        with pytest.raises(MismatchError, match=r"another number of processes \(part-00001-of-00003\)"):
            harvest(source(), path, ranks=ranks, shard_tokens=64)
    with owned(tmp_path / "acts.partial" / "part-00001-of-00003"), pytest.raises(OutputError, match="in use"):
        harvest(source(), path, shard_tokens=64, force=True)
    assert torch.equal(column(harvest(source(), path, shard_tokens=64, force=True), "tokens"), column(alone, "tokens"))


def test_processes_that_read_different_things_make_no_store(tmp_path: Path) -> None:
    harvest_part(source(1), tmp_path / "acts", 1, 2, shard_tokens=64)
    with pytest.raises(MismatchError, match="part-00001-of-00002 holds other activations than the first part"):
        harvest(source(), tmp_path / "acts", ranks=2, shard_tokens=64)


def test_a_part_has_one_writer(tmp_path: Path) -> None:
    with owned(tmp_path / "acts.partial" / "part-00001-of-00002"), pytest.raises(OutputError, match="in use"):
        harvest_part(source(), tmp_path / "acts", 1, 2)


def test_conversations_are_mixed_within_each_part(tmp_path: Path) -> None:
    def chatting() -> ActivationSource:
        texts = ("".join(f"<bos>{m['content']}<eos>" for m in messages) for messages in chats(40))
        windows = TokenWindows.from_sequences(texts, tiny_tokenizer(), context=40)
        return shuffle(live(tiny_lm(), windows, SITES[:1], windows_per_batch=4), 100, batch_tokens=16)

    harvest_part(chatting(), tmp_path / "acts", 1, 2)
    both = harvest(chatting(), tmp_path / "acts", ranks=2)
    one = harvest(chatting(), tmp_path / "alone")
    assert both.n_tokens == one.n_tokens
    assert torch.equal(column(both, "tokens").sort().values, column(one, "tokens").sort().values)


def test_ranks_of_a_training_read_disjoint_parts(tmp_path: Path) -> None:
    store = shared(tmp_path / "acts", 2)
    for ranks in (2, 3):
        read = [column(store.part(number, ranks), "tokens") for number in range(ranks)]
        assert torch.equal(torch.cat(read), column(store, "tokens"))
