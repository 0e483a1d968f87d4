from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from harvest_sources import Fragile, Interrupted, source
from safetensors import SafetensorError

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import CorruptError, DataError, MismatchError, OutputError
from monoscope.core.io import fingerprint, owned
from monoscope.harvest import (
    ActivationSource,
    ActivationStore,
    SkipPolicy,
    from_array,
    harvest,
    shuffle,
)


def assert_same(a: ActivationBatch, b: ActivationBatch) -> None:
    assert list(a.activations) == list(b.activations)
    for site, x in a.activations.items():
        assert x.dtype == b.activations[site].dtype
        assert torch.equal(x, b.activations[site])
    for name in ("tokens", "mask", "positions", "documents"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None and y is None) or (x.dtype == y.dtype and torch.equal(x, y))


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def store(tmp_path: Path) -> ActivationStore:
    return harvest(source(), tmp_path / "acts", shard_tokens=64)


def test_stored_is_live_batch_for_batch(store: ActivationStore) -> None:
    assert len(store.shards) > 2
    for a, b in zip(source(), store, strict=True):
        assert_same(a, b)
    assert store.n_tokens == source().n_tokens
    assert store.widths == source().widths


def test_a_store_remembers_where_it_comes_from(store: ActivationStore) -> None:
    lived = source()
    list(lived)
    expected = lived.info | {"kind": "store", "fingerprint": store.fingerprint}
    assert store.info == expected
    assert sum(store.info["excluded"].values()) > 0


def test_only_the_store_is_left(store: ActivationStore) -> None:
    assert [path.name for path in store.path.parent.iterdir()] == ["acts"]
    assert set(files(store.path)) == {"manifest.json", *(shard.file for shard in store.shards)}


@pytest.mark.parametrize("rows", [1, 3, 5, 100])
def test_batches_of_any_size_cross_shards(store: ActivationStore, rows: int) -> None:
    whole = torch.cat([batch.activations[store.sites[0]] for batch in store])
    batches = list(ActivationStore(store.path, rows_per_batch=rows))
    assert torch.equal(torch.cat([batch.activations[store.sites[0]] for batch in batches]), whole)
    assert all(len(batch.tokens) == rows for batch in batches[:-1])


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_is_rounded_once(tmp_path: Path, dtype: Any, torch_dtype: torch.dtype) -> None:
    store = harvest(source(), tmp_path / "acts", dtype=dtype)
    for a, b in zip(source(), store, strict=True):
        for site, x in a.activations.items():
            assert torch.equal(x.to(torch_dtype).float(), b.activations[site])
    assert store.info["dtype"] == str(torch_dtype).removeprefix("torch.")


def test_tokens_in_any_order_can_be_stored(tmp_path: Path) -> None:
    def shuffled() -> ActivationSource:
        return shuffle(source(), 100, seed=1, batch_tokens=30)

    store = harvest(shuffled(), tmp_path / "acts", shard_tokens=50)
    for a, b in zip(shuffled(), store, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("batches", range(7))
def test_an_interrupted_harvest_goes_on_to_the_same_files(tmp_path: Path, store: ActivationStore, batches: int) -> None:
    with pytest.raises(Interrupted):
        harvest(Fragile(source(), batches), tmp_path / "other", shard_tokens=64)
    assert not (tmp_path / "other").exists()
    resumed = Fragile(source(), 100)
    harvest(resumed, tmp_path / "other", shard_tokens=64)
    assert files(tmp_path / "other") == files(store.path)
    n_batches = len(list(source()))
    assert 100 - resumed.left == n_batches - 2 * (batches // 2)  # two batches are a shard


def test_a_harvest_interrupted_at_the_very_end_is_finished(
    tmp_path: Path, store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr("monoscope.harvest.writer.replace_directory", stop)
        with pytest.raises(Interrupted):
            harvest(source(), tmp_path / "other", shard_tokens=64)
    harvest(source(), tmp_path / "other", shard_tokens=64)
    assert files(tmp_path / "other") == files(store.path)


def test_a_harvest_interrupted_behind_a_last_short_shard_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = len(list(source()))
    with monkeypatch.context() as patch:
        patch.setattr("monoscope.harvest.writer.replace_directory", lambda *places: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            harvest(source(), tmp_path / "acts", shard_tokens=32 * (n - 1))
    resumed = Fragile(source(), 0)
    assert len(list(harvest(resumed, tmp_path / "acts", shard_tokens=32 * (n - 1)))) == n


def kill_while_writing(path: Path, shards: int) -> None:
    real = safetensors.torch.save_file
    written = 0

    def save_file(tensors: Any, file: Any, metadata: Any = None) -> None:
        nonlocal written
        if written == shards:
            Path(file).write_bytes(b"half a shard")
            os.kill(os.getpid(), signal.SIGKILL)
        written += 1
        real(tensors, file, metadata)

    safetensors.torch.save_file = save_file
    harvest(source(), path, shard_tokens=64)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("shards", [0, 2])
def test_a_kill_in_the_middle_of_a_shard_costs_that_shard(tmp_path: Path, store: ActivationStore, shards: int) -> None:
    process = multiprocessing.get_context("fork").Process(target=kill_while_writing, args=(tmp_path / "other", shards))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    resumed = Fragile(source(), 100)
    harvest(resumed, tmp_path / "other", shard_tokens=64)
    assert files(tmp_path / "other") == files(store.path)
    assert 100 - resumed.left == len(list(source())) - 2 * shards


def test_an_unfinished_harvest_of_something_else_is_kept(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        harvest(Fragile(source(), 4), tmp_path / "acts", shard_tokens=64)
    before = files(tmp_path / "acts.partial")
    with pytest.raises(DataError, match="acts.partial is an unfinished harvest"):
        ActivationStore(tmp_path / "acts")
    with pytest.raises(MismatchError, match=r"dtype was 'fp32', now 'bf16'; source.skip.first was 1, now 3; go on"):
        harvest(source(skip=SkipPolicy(first=3)), tmp_path / "acts", shard_tokens=64, dtype="bf16")
    assert files(tmp_path / "acts.partial") == before
    store = harvest(source(), tmp_path / "acts", shard_tokens=1000, force=True)
    assert len(store.shards) == 1
    assert set(files(store.path)) == {"manifest.json", "shard-00000.safetensors"}


def test_what_is_there_is_replaced_by_force_alone_and_only_when_complete(store: ActivationStore) -> None:
    before = files(store.path)
    with pytest.raises(OutputError, match="exists"):
        harvest(source(), store.path)
    with pytest.raises(Interrupted):
        harvest(Fragile(source(), 5), store.path, dtype="bf16", force=True)
    assert files(store.path) == before
    harvest(source(), store.path, dtype="bf16", force=True)
    assert ActivationStore(store.path).info["dtype"] == "bfloat16"


def test_two_processes_cannot_write_one_store(tmp_path: Path) -> None:
    with owned(tmp_path / "acts.partial"):
        with pytest.raises(OutputError, match="in use by process"):
            harvest(source(), tmp_path / "acts")
        assert (tmp_path / "acts.partial").exists()


def test_a_full_disk_keeps_what_was_complete(
    tmp_path: Path, store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = safetensors.torch.save_file

    def save_file(tensors: Any, file: Any, metadata: Any = None) -> None:
        if "00002" in str(file):
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(tensors, file, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", save_file)
        with pytest.raises(OutputError, match="is full"):
            harvest(source(), tmp_path / "other", shard_tokens=64)
    assert len(list((tmp_path / "other.partial").glob("*.safetensors"))) == 2
    harvest(source(), tmp_path / "other", shard_tokens=64)
    assert files(tmp_path / "other") == files(store.path)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        harvest(source(), tmp_path / "file" / "acts")


def test_activations_that_the_dtype_cannot_hold_are_named(tmp_path: Path) -> None:
    x = torch.ones(10, 4)
    x[7, 2] = 1e5
    with pytest.raises(DataError, match="at x:out are not finite in fp16: row 7; store bf16 or fp32"):
        harvest(from_array(x, batch_tokens=3), tmp_path / "acts", dtype="fp16")
    assert not list(tmp_path.iterdir())


def test_a_source_without_batches_makes_no_store(tmp_path: Path) -> None:
    ended = source()
    list(ended)
    empty = Fragile(ended, 100)
    empty.__class__ = type("Empty", (Fragile,), {"__iter__": lambda self: iter(())})
    with pytest.raises(DataError, match="yielded no activations"):
        harvest(empty, tmp_path / "acts")
    assert not list(tmp_path.iterdir())


def test_a_truncated_or_missing_shard_is_named_on_opening(store: ActivationStore) -> None:
    shard = store.path / "shard-00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=f"shard-00001.safetensors is not whole: {len(whole) - 1:,} of {len(whole):,}"):
        ActivationStore(store.path)
    shard.unlink()
    with pytest.raises(DataError, match="shard-00001.safetensors is missing"):
        ActivationStore(store.path)


def replace_shard(store: ActivationStore, number: int, data: bytes) -> str:
    """Put other bytes in the place of a shard, as if they had been harvested; the shard's name."""
    manifest = json.loads((store.path / "manifest.json").read_text())
    name = manifest["shards"][number]["file"]
    (store.path / name).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    manifest["shards"][number] |= {"bytes": len(data), "checksum": f"sha256:{digest}"}
    write_manifest(store, manifest)
    return name


def write_manifest(store: ActivationStore, manifest: dict[str, Any]) -> None:
    head = ("schema", "schema_version", "generator", "fingerprint")
    manifest["fingerprint"] = fingerprint({k: v for k, v in manifest.items() if k not in head})
    (store.path / "manifest.json").write_text(json.dumps(manifest))


def test_a_shard_of_another_layout_is_named_when_it_is_reached(store: ActivationStore) -> None:
    data = (store.path / store.shards[1].file).read_bytes()
    replace_shard(store, 1, data.replace(b'"tokens"', b'"tokenz"'))
    with pytest.raises(CorruptError, match="shard-00001.safetensors holds .*tokenz.*manifest says"):
        list(ActivationStore(store.path))
    replace_shard(store, 1, b"\xff" * len(data))
    with pytest.raises(CorruptError, match="shard-00001.safetensors is not a safetensors file"):
        list(ActivationStore(store.path))


@pytest.mark.parametrize("name", ["../shard-00001.safetensors", "/etc/passwd", "part-1/shard-00001.safetensors"])
def test_a_manifest_names_no_files_elsewhere(store: ActivationStore, name: str) -> None:
    manifest = json.loads((store.path / "manifest.json").read_text())
    manifest["shards"][1]["file"] = name
    write_manifest(store, manifest)
    with pytest.raises(DataError, match="names a shard that cannot be"):
        ActivationStore(store.path)


def test_stores_with_sha256_alone_are_read_and_checked(store: ActivationStore) -> None:
    manifest = json.loads((store.path / "manifest.json").read_text())
    for shard in manifest["shards"]:
        del shard["checksum"], shard["tokens"]
        shard["sha256"] = hashlib.sha256((store.path / shard["file"]).read_bytes()).hexdigest()
    write_manifest(store, manifest)
    for a, b in zip(source(), ActivationStore(store.path), strict=True):
        assert_same(a, b)
    flip_a_bit(store.path / store.shards[2].file)
    with pytest.raises(CorruptError, match="shard-00002.safetensors was changed"):
        list(ActivationStore(store.path))


def test_a_tampered_shard_is_named_when_it_is_reached(store: ActivationStore) -> None:
    flip_a_bit(store.path / "shard-00001.safetensors")
    batches = iter(ActivationStore(store.path))
    next(batches), next(batches)
    with pytest.raises(CorruptError, match="shard-00001.safetensors was changed after it was written"):
        next(batches)


def test_a_tampered_manifest_is_an_error(store: ActivationStore) -> None:
    path = store.path / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"n_tokens": 7}))
    with pytest.raises(DataError, match="the manifest of .* was changed"):
        ActivationStore(store.path)


def test_nan_in_a_shard_is_named_by_row_and_position(store: ActivationStore) -> None:
    tensors = safetensors.torch.load_file(store.path / store.shards[1].file)
    tensors["activations/1.mlp_out"][2, 0] = float("nan")  # BOS does not count
    position = int(tensors["mask"][3].nonzero()[-1])
    tensors["activations/1.mlp_out"][3, position, 1] = float("nan")
    name = replace_shard(store, 1, safetensors.torch.save(tensors))
    with pytest.raises(DataError, match=f"{name}, row 3, position {position}: activations at 1.mlp_out are"):
        list(ActivationStore(store.path, on_corrupt="skip"))


def test_what_is_not_a_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no activation store at"):
        ActivationStore(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no manifest"):
        ActivationStore(tmp_path / "empty")


def test_a_position_in_another_store_is_refused(store: ActivationStore, tmp_path: Path) -> None:
    other = harvest(source(), tmp_path / "other", dtype="bf16")
    with pytest.raises(MismatchError, match="taken in another source: its fingerprint"):
        store.load_state_dict(other.state_dict())
