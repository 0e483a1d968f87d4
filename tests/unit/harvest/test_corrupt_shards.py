"""Shards that are not what was written: named, and left out by choice, in the same way whenever reading goes on."""

from __future__ import annotations

import json
import logging
from itertools import islice
from pathlib import Path

import pytest
import torch

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import CorruptError, MismatchError
from monoscope.harvest import ActivationStore, from_array, harvest, shuffle

ROWS, PER_BATCH, PER_SHARD = 64, 4, 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Six shards, the third and the last of which are damaged."""
    x = torch.arange(ROWS, dtype=torch.float32)[:, None].expand(-1, 3)
    store = harvest(from_array(x, batch_tokens=PER_BATCH), tmp_path / "acts", shard_tokens=PER_SHARD)
    assert [shard.rows for shard in store.shards] == [12, 12, 12, 12, 12, 4]
    damaged = bytearray((store.path / store.shards[2].file).read_bytes())
    damaged[-2] ^= 64
    (store.path / store.shards[2].file).write_bytes(damaged)
    (store.path / store.shards[5].file).unlink()
    return store.path


def rows(batches: list[ActivationBatch]) -> list[int]:
    return [int(row) for batch in batches for x in batch.activations.values() for row in x[:, 0]]


WHOLE = [*range(24), *range(36, 60)]


def test_corrupt_shards_stop_unless_told_otherwise(path: Path) -> None:
    with pytest.raises(CorruptError, match=r'shard-00005.safetensors is missing.* on_corrupt = "skip"'):
        ActivationStore(path)
    (path / "shard-00005.safetensors").write_bytes(b"")
    with pytest.raises(CorruptError, match="shard-00005.safetensors is not whole: 0 of"):
        ActivationStore(path)


def test_corrupt_shards_are_left_out_by_choice(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ActivationStore(path, on_corrupt="skip")
    assert store.skipped == ("shard-00005.safetensors",)
    assert rows(list(store)) == WHOLE
    assert rows(list(store)) == WHOLE
    assert store.skipped == ("shard-00005.safetensors", "shard-00002.safetensors")
    assert store.info["excluded"] == {"corrupt": 16}
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert ["shard-00005" in record.getMessage() for record in warned] == [True, False]
    assert "its checksum differs; harvest again; its 12 rows are left out" in warned[1].getMessage()


@pytest.mark.parametrize("per_batch", [1, 4, 5, 7, 30, 100])
def test_batches_of_any_size_leave_out_the_same_rows(path: Path, per_batch: int) -> None:
    batches = list(ActivationStore(path, rows_per_batch=per_batch, on_corrupt="skip"))
    assert rows(batches) == WHOLE
    assert all(0 < batch.n_tokens <= per_batch for batch in batches)


@pytest.mark.parametrize("per_batch", [4, 5])
@pytest.mark.parametrize("is_repaired", [False, True])
def test_reading_goes_on_as_it_would_have(path: Path, per_batch: int, is_repaired: bool) -> None:
    def reading() -> ActivationStore:
        return ActivationStore(path, rows_per_batch=per_batch, on_corrupt="skip")

    expected = [rows([batch]) for batch in reading()]
    states = []
    stopped = reading()
    for _ in stopped:
        states.append(json.loads(json.dumps(stopped.state_dict())))
    if is_repaired:  # a run that began without them goes on without them
        whole = torch.arange(ROWS, dtype=torch.float32)[:, None].expand(-1, 3)
        fresh = harvest(from_array(whole, batch_tokens=PER_BATCH), path.with_name("new"), shard_tokens=PER_SHARD)
        for shard in fresh.shards:
            (fresh.path / shard.file).rename(path / shard.file)
    for number, state in enumerate(states):
        if is_repaired and len(state["corrupt"]) < 2:
            continue  # by then, nobody had found the second one
        resumed = reading()
        resumed.load_state_dict(state)
        assert [rows([batch]) for batch in resumed] == expected[number + 1 :]


def test_what_was_left_out_does_not_come_back_unnoticed(path: Path) -> None:
    skipping = ActivationStore(path, on_corrupt="skip")
    list(islice(skipping, 8))
    (path / "shard-00005.safetensors").write_bytes(b"x" * skipping.shards[5].bytes)
    with pytest.raises(MismatchError, match=r"without its corrupt shards \(shard-00005.safetensors, shard-00002"):
        ActivationStore(path).load_state_dict(skipping.state_dict())


def test_parts_leave_out_what_is_theirs(path: Path) -> None:
    parts = [ActivationStore(path, on_corrupt="skip").part(number, 3) for number in range(3)]
    read = [rows(list(part)) for part in parts]
    assert [row for part in read for row in part] == WHOLE
    assert [part.info.get("excluded", {}).get("corrupt", 0) for part in parts] == [0, 12, 4]


def test_a_shuffle_holds_what_is_left(path: Path) -> None:
    mixed = shuffle(ActivationStore(path, on_corrupt="skip"), 20, batch_tokens=8)
    assert sorted(rows(list(mixed))) == WHOLE


def test_a_store_without_a_whole_shard_is_an_error(path: Path) -> None:
    for shard in path.glob("*.safetensors"):
        shard.unlink()
    with pytest.raises(CorruptError, match="holds not one whole shard"):
        ActivationStore(path, on_corrupt="skip")
