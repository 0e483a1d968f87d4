"""Activations in a store elsewhere are those of a directory here: written, interrupted, corrupt, read in parts."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from harvest_sources import Fragile, Interrupted
from object_store import s3 as s3

from monoscope.core.errors import ConfigError, CorruptError, DataError, MismatchError, OutputError
from monoscope.core.stores import claims
from monoscope.core.stores.remote import Remote
from monoscope.harvest import ActivationSource, ActivationStore, from_array, harvest, shuffle
from monoscope.harvest.copies import Copies
from monoscope.harvest.writer import harvest_part

X = torch.arange(64.0)[:, None].expand(-1, 3).contiguous()


def source(x: torch.Tensor = X, batches: int = 1000) -> Fragile:
    """Rows of an array."""
    return Fragile(from_array(x, batch_tokens=4), batches)


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest) -> str:
    root = "memory://tests" if request.param == "memory" else request.getfixturevalue("s3")
    return f"{root}/{uuid.uuid4().hex}/acts"


def rows(source: ActivationSource) -> list[int]:
    return [int(row) for batch in source for x in batch.activations.values() for row in x[:, 0]]


def test_what_is_stored_elsewhere_is_what_is_stored_here(place: str, tmp_path: Path) -> None:
    there, here = (harvest(source(), path, shard_tokens=12) for path in (place, tmp_path / "acts"))
    assert there.manifest == here.manifest
    assert Remote(place).sizes() == {file.name: file.stat().st_size for file in here.path.iterdir()}
    for shard in here.shards:
        assert (there.path / shard.file).read_bytes() == (here.path / shard.file).read_bytes()
    assert rows(ActivationStore(place)) == list(range(64))
    assert rows(there.part(1, 3)) == rows(here.part(1, 3))
    assert rows(shuffle(there, 20, batch_tokens=8)) == rows(shuffle(here, 20, batch_tokens=8))


@pytest.mark.parametrize("batches", [0, 4, 15])
def test_an_interrupted_harvest_goes_on_and_is_no_store_before(place: str, batches: int) -> None:
    with pytest.raises(Interrupted):
        harvest(source(batches=batches), place, shard_tokens=12)
    with pytest.raises(DataError, match="is an unfinished harvest" if batches else "no activation store at"):
        ActivationStore(place)
    if batches:
        with pytest.raises(MismatchError, match="unfinished harvest of something else: dtype was 'fp32', now 'bf16'"):
            harvest(source(), place, shard_tokens=12, dtype="bf16")
    resumed = source()
    assert rows(harvest(resumed, place, shard_tokens=12)) == list(range(64))
    assert 1000 - resumed.left == 16 - 3 * (batches // 3)
    assert set(Remote(place).sizes()) == {"manifest.json", *(f"shard-{n:05d}.safetensors" for n in range(6))}


def test_what_is_there_is_replaced_by_force_alone(place: str) -> None:
    harvest(source(), place, shard_tokens=12)
    with pytest.raises(OutputError, match="exists; choose another place"):
        harvest(source(), place)
    (Remote(place) / "notes.txt").write_bytes(b"mine")
    store = harvest(source(X + 1), place, shard_tokens=40, force=True)
    assert rows(store) == list(range(1, 65))
    assert set(Remote(place).sizes()) == {"manifest.json", "shard-00000.safetensors", "shard-00001.safetensors"}


def test_several_processes_write_one_store(place: str) -> None:
    harvest_part(source(), place, 1, 3, shard_tokens=12)
    with pytest.raises(Interrupted):
        harvest_part(source(batches=4), place, 2, 3, shard_tokens=12)
    with pytest.raises(MismatchError, match="another number of processes"):
        harvest(source(), place, ranks=2, shard_tokens=12)
    harvest_part(source(), place, 2, 3, shard_tokens=12)
    store = harvest(source(), place, ranks=3, shard_tokens=12)
    assert rows(store) == list(range(64))
    assert not [name for name in Remote(place).sizes() if not name.endswith((".safetensors", "manifest.json"))]


def test_corrupt_shards_are_named_or_left_out(place: str) -> None:
    store = harvest(source(), place, shard_tokens=12)
    broken, cut = (Remote(place) / store.shards[number].file for number in (1, 3))
    data = bytearray(broken.read_bytes())
    data[-1] ^= 1
    broken.write_bytes(bytes(data))
    with pytest.raises(CorruptError, match=f"^{broken} was changed after it was written"):
        rows(ActivationStore(place))
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(CorruptError, match=f"^{cut} is not whole"):
        ActivationStore(place)
    skipping = ActivationStore(place, on_corrupt="skip")
    (Remote(place) / store.shards[4].file).remove()
    assert rows(skipping) == [*range(12), *range(24, 36), *range(60, 64)]
    assert skipping.info["excluded"]["corrupt"] == 36


def test_copies_stay_within_their_room(tmp_path: Path) -> None:
    place = f"memory://tests/{uuid.uuid4().hex}/acts"
    store = harvest(source(), place, shard_tokens=8)
    size = store.shards[0].bytes
    copies = Copies(Remote(place), room=3 * size)
    for _ in range(2):
        for number, shard in enumerate(store.shards):
            assert copies.of(shard, store.shards[(number + 1) % len(store.shards)]).stat().st_size == size
            assert len(list(copies.directory.iterdir())) <= 3
    assert (copies.directory / store.shards[0].file).exists()
    directory = copies.directory
    del copies
    assert not directory.exists()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.05)


def test_a_second_writer_is_refused_while_the_first_lives(place: str, quick: None) -> None:
    with claims.claimed(Remote(place)), pytest.raises(OutputError, match=f"{place} is in use by process \\d+ on "):
        harvest(source(), place)
    assert rows(harvest(source(), place)) == list(range(64))


def test_a_claim_of_a_dead_process_elsewhere_is_taken_over(place: str, quick: None) -> None:
    left = {"token": "x", "holder": "17 on another-machine", "beat": 3}
    (Remote(place) / claims.CLAIM).write_bytes(json.dumps(left).encode())
    assert rows(harvest(source(), place)) == list(range(64))


def test_a_writer_that_was_taken_over_stops(place: str) -> None:
    class Slow(Fragile):
        def __iter__(self) -> Iterator[Any]:
            for number, batch in enumerate(super().__iter__()):
                if number == 8:
                    taken = {"token": "y", "holder": "18 on another-machine", "beat": 0}
                    (Remote(place) / claims.CLAIM).write_bytes(json.dumps(taken).encode())
                yield batch

    with pytest.raises(OutputError, match="taken over by process 18 on another-machine"):
        harvest(Slow(source().inner), place, shard_tokens=12)
    assert json.loads((Remote(place) / claims.CLAIM).read_bytes())["token"] == "y"
    assert len([name for name in Remote(place).sizes() if name.startswith("shard-")]) == 2


@pytest.mark.parametrize("url", ["s3://", "s3://bucket/../x", "memory://a//b"])
def test_urls_that_name_no_place(url: str) -> None:
    with pytest.raises(ConfigError, match="is not the URL of a place in a store"):
        Remote(url)


def test_a_store_that_cannot_be_reached_is_named() -> None:
    with pytest.raises(
        ConfigError,
        match="gs://bucket/acts/manifest.json: stores of kind 'gs' cannot be reached: .*pip install 'gcsfs'",
    ):
        ActivationStore("gs://bucket/acts")
