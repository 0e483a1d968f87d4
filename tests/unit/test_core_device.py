"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from monoscope.cli.reading import Reading
from monoscope.core.device import usable
from monoscope.core.errors import ConfigError
from monoscope.models import LanguageModel
from monoscope.parallel.mesh import meshed


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert usable("auto") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert usable("auto") == usable("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("is_built", "count", "name", "said"),
    [
        (False, 0, "cuda", "built without CUDA; install the build for your GPU"),
        (True, 0, "cuda:0", "sees no GPU; look at nvidia-smi"),
        (True, 2, "cuda:2", "the last of 2 GPUs is 'cuda:1'"),
    ],
)
def test_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, is_built: bool, count: int, name: str, said: str
) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: is_built)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ConfigError, match=f"device: '{name}' cannot be used here: .*{said}"):
        usable(name)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A machine with two GPUs, as the second of two processes sees it; the devices that it has taken."""
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    taken: list[torch.device] = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, device: empty(*shape, device="meta"))
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    return taken


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("name", "found"), [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")]
)
def test_each_process_of_torchrun_has_a_gpu_of_its_own(name: str, found: str) -> None:
    assert usable(name) == torch.device(found)


@pytest.mark.usefixtures("two_gpus")
def test_fewer_gpus_than_processes_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    said = r"device: 2 processes .* sees 1 GPU; start 1 with torchrun \(--nproc-per-node 1\), or set device = 'cpu'"
    with pytest.raises(ConfigError, match=said):
        usable("auto")
    assert usable("cuda:0") == torch.device("cuda:0")


@pytest.mark.usefixtures("two_gpus")
def test_a_model_is_on_the_gpu_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    places = []

    def loaded(path: object, *, device: torch.device, **_: object) -> LanguageModel:
        places.append(device)
        raise ConfigError("far enough")

    monkeypatch.setattr(LanguageModel, "from_pretrained", loaded)
    with pytest.raises(ConfigError, match="far enough"):
        Reading().language_model()
    assert places == [torch.device("cuda:1")]


def test_a_mesh_talks_on_the_gpu_of_its_process(two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    backends = []

    def joined(backend: str, **_: object) -> None:
        backends.append(backend)
        raise ConfigError("far enough")

    monkeypatch.setattr("monoscope.parallel.mesh.fresh_store", lambda: (None, 3, 4))
    monkeypatch.setattr(torch.distributed, "init_process_group", joined)
    with pytest.raises(ConfigError, match="far enough"), meshed(2, usable("auto")):
        pass
    assert (backends, two_gpus) == (["nccl"], [torch.device("cuda:1")])
    shared = "'cuda:0' is one GPU, and 2 processes .* need one each; set device = 'auto'"
    with pytest.raises(ConfigError, match=shared), meshed(2, usable("cuda:0")):
        pass
    assert backends == ["nccl"]


def test_no_device_has_that_name() -> None:
    with pytest.raises(ConfigError, match="device: 'gpu' cannot be used here"):
        usable("gpu")
