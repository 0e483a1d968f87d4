"""Checkpoints of torch.distributed: tensors in pieces, and metadata that is a pickle."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint as dcp

from monoscope.core.errors import DataError
from monoscope.formats.folder import LocalFolder
from monoscope.formats.torch_checkpoint import METADATA, checkpoint


def saved(tmp_path: Path) -> dict[str, torch.Tensor]:
    values = {"W": torch.randn(6, 4), "b": torch.randn(3).bfloat16(), "n": torch.tensor(2.5), "rows": torch.arange(5)}
    dcp.save(dict(values), checkpoint_id=str(tmp_path / "w.dcp"), no_dist=True)
    return values


@pytest.mark.filterwarnings("ignore")
def test_tensors_are_what_was_saved(tmp_path: Path) -> None:
    values = saved(tmp_path)
    found = checkpoint(LocalFolder(tmp_path), "w.dcp")
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert (found[name].shape, found[name].dtype) == (tuple(value.shape), value.dtype)
        assert torch.equal(found[name].read(), value)
    assert torch.equal(found["W"].rows([4, 1]), values["W"][[4, 1]])


@pytest.mark.filterwarnings("ignore")
def test_pieces_are_joined(tmp_path: Path) -> None:
    values = saved(tmp_path)
    path = tmp_path / "w.dcp" / METADATA
    held = pickle.loads(path.read_bytes())  # the test's own file
    whole = held.state_dict_metadata["W"].chunks[0]
    (index,) = [key for key in held.storage_data if key.fqn == "W"]
    place = held.storage_data.pop(index)
    data = (tmp_path / "w.dcp" / place.relative_path).read_bytes()
    chunks = []
    for first in (0, 4):
        part = values["W"][first : first + 4].contiguous()
        name = f"__{first}.distcp"
        torch.save(part, tmp_path / "w.dcp" / name)
        size = (tmp_path / "w.dcp" / name).stat().st_size
        chunk = type(whole)(offsets=torch.Size([first, 0]), sizes=torch.Size(part.shape))
        chunks.append(chunk)
        held.storage_data[type(index)(fqn="W", offset=chunk.offsets, index=first)] = type(place)(name, 0, size)
    held.state_dict_metadata["W"].chunks[:] = chunks
    path.write_bytes(pickle.dumps(held))
    found = checkpoint(LocalFolder(tmp_path), "w.dcp")
    assert torch.equal(found["W"].read(), values["W"])
    assert torch.equal(found["W"].rows([5, 0, 3]), values["W"][[5, 0, 3]])
    assert torch.equal(found["W"].narrow(1, 1, 3).read(), values["W"][:, 1:3])
    held.state_dict_metadata["W"].chunks[:] = chunks[:1]
    path.write_bytes(pickle.dumps(held))
    with pytest.raises(DataError, match="chunks hold 16 of 24 numbers"):
        checkpoint(LocalFolder(tmp_path), "w.dcp")["W"].read()
    assert len(data) > 0


class Harmful:
    def __reduce__(self) -> Any:
        return eval, ("1 / 0",)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps(Harmful()), r"would run its code \(it needs builtins.eval\)"),
        (pickle.dumps({"a": 1}), "holds a dict, not the metadata"),
        (pickle.dumps(torch.Size([2]))[:-3], "is not the metadata of a checkpoint"),
        (b"", "is not the metadata of a checkpoint"),
    ],
)
def test_metadata_that_is_something_else_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    saved(tmp_path)
    (tmp_path / "w.dcp" / METADATA).write_bytes(data)
    with pytest.raises(DataError, match=message):
        checkpoint(LocalFolder(tmp_path), "w.dcp")


@pytest.mark.filterwarnings("ignore")
def test_pieces_that_are_cut_short_or_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    (piece,) = (tmp_path / "w.dcp").glob("*.distcp")
    whole = piece.read_bytes()
    piece.write_bytes(whole[:-100])
    with pytest.raises(DataError, match="cut short"):
        checkpoint(LocalFolder(tmp_path), "w.dcp")
    path = tmp_path / "w.dcp" / METADATA
    held = pickle.loads(path.read_bytes())  # the test's own file
    for place in held.storage_data.values():
        place.relative_path = "../../outside.distcp"
    path.write_bytes(pickle.dumps(held))
    with pytest.raises(DataError, match="leads out of it"):
        checkpoint(LocalFolder(tmp_path), "w.dcp")
