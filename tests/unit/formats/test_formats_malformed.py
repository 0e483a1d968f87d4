"""Bad files of every library: named errors, nothing executed, nothing half-loaded. Made from its own golden files.

What must be refused: files cut short or of other sizes than they declare, tensors that are missing, unknown, misshapen
or not finite, pickles that need code, archives that grow, configurations that are none. What a setting is changed to
may be understood or refused; nothing else may come of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from dictionary_cases import build
from safetensors.torch import load, save_file

from monoscope import formats
from monoscope.core.errors import UserError
from monoscope.dictionaries import Dictionary

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = [
    "native/topk",
    "saelens/gated",
    "saelens/jumprelu",
    "saelens/matching_pursuit",
    "saelens/skip_transcoder",
    "saelens/topk_rescaled",
    "saelens/trained_batchtopk",
    "saelens_old/jumprelu",
    "sparsify/topk",
    "sparsify/transcode_skip",
    "dictionary_learning/batch_topk",
    "dictionary_learning/gated",
    "dictionary_learning/interrupted",
    "dictionary_learning/matryoshka",
    "llamascopium/clt_topk",
    "llamascopium/crosscoder_topk",
    "llamascopium/lorsa_topk",
    "llamascopium/molt_topk",
    "llamascopium/sae_jumprelu",
    "llamascopium/transcoder_topk_pt",
    "circuit_tracer/clt_relu",
    "circuit_tracer/plt_jumprelu_skip",
]
TENSORS = (".safetensors", ".pt")
OPTIONAL = {"W_skip"}
"""Tensors whose absence means something to a library."""

UNREAD = ("dataset_average_activation_norm", "rotary_", "mask", "IGNORE", "group_sizes")
"""What lies beside the weights, and has no effect on what is computed from them."""


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory with one dictionary, or a set of them, as its library wrote it."""
    name = request.param
    if name == "native/topk":
        build("topk").save(tmp_path / "topk")
        return tmp_path / "topk"
    place = tmp_path / name.rpartition("/")[2]
    shutil.copytree(GOLDEN / name, place)
    for extra in [*place.rglob("io.safetensors"), *place.rglob("made.json")]:
        extra.unlink()
    return place


every = pytest.mark.parametrize("case", CASES, indirect=True)


def loaded(place: Path) -> list[Dictionary]:
    """Every dictionary there is."""
    found = formats.find(place)
    return [found.at(entry).open().dictionary() for entry in found.entries()]


def refused(place: Path, why: str) -> str:
    """The message with which a directory is refused. Whatever else happens is a failure."""
    try:
        loaded(place)
    except UserError as error:
        return str(error)
    raise AssertionError(f"{why}: it was loaded")


def files(place: Path, *suffixes: str) -> list[Path]:
    found = sorted(path for path in place.rglob("*") if path.is_file() and path.suffix in suffixes)
    return [path for path in found if path.name != "sparsity.safetensors"]  # which nothing reads


def tensors_in(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return load(path.read_bytes())
    return torch.load(path, weights_only=True)


def rewrite(path: Path, value: dict[str, Any]) -> None:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in value.items()}, path)
    else:
        torch.save(value, path)


def weights_of(value: dict[str, Any]) -> dict[str, Any]:
    """The table of tensors in what a file holds, which may lie one deeper."""
    for inner in ("ae", "sae"):
        if isinstance(value.get(inner), dict):
            return value[inner]
    return value


@every
def test_it_is_loaded_as_it_is(case: Path) -> None:
    for dictionary in loaded(case):
        for tensor in dictionary.state_dict().values():
            assert tensor.isfinite().all()


@every
def test_files_cut_short_are_refused(case: Path) -> None:
    for path in files(case, *TENSORS):
        whole = path.read_bytes()
        for left in (0, 7, len(whole) // 3, len(whole) - 1):
            path.write_bytes(whole[:left])
            assert path.name in refused(case, f"{path.name} has {left} of {len(whole)} bytes")
        path.write_bytes(whole)
        if path.suffix == ".safetensors":
            path.write_bytes(whole + bytes(8))
            assert path.name in refused(case, f"{path.name} has bytes too many")
            path.write_bytes(whole)


@every
def test_a_missing_or_unknown_tensor_is_refused_by_name(case: Path) -> None:
    for path in files(case, *TENSORS):
        for change in ("missing", "unknown"):
            value = tensors_in(path)
            weights = weights_of(value)
            names = [name for name, item in weights.items() if isinstance(item, torch.Tensor) and item.ndim >= 2]
            names = sorted(set(names) - OPTIONAL)
            if change == "missing":
                name = names[0]
                del weights[name]
            else:
                name = "W_mystery"
                weights[name] = torch.ones(3, 2)
            whole = path.read_bytes()
            rewrite(path, value)
            message = refused(case, f"{name} of {path.name} is {change}")
            if change == "unknown":
                assert name in message, message
            path.write_bytes(whole)


@every
def test_tensors_of_other_shapes_are_refused(case: Path) -> None:
    for path in files(case, *TENSORS):
        value, whole = tensors_in(path), path.read_bytes()
        for name, tensor in weights_of(value).items():
            if not isinstance(tensor, torch.Tensor) or tensor.ndim == 0 or name.startswith(UNREAD):
                continue
            for other in (tensor[..., :-1], tensor[None], torch.cat([tensor, tensor[:1]])):
                changed = tensors_in(path)
                weights_of(changed)[name] = other.clone()
                rewrite(path, changed)
                refused(case, f"{name} of {path.name} is {list(other.shape)}, not {list(tensor.shape)}")
                path.write_bytes(whole)


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(case: Path, bad: float) -> None:
    for path in files(case, *TENSORS):
        whole = path.read_bytes()
        for name, tensor in weights_of(tensors_in(path)).items():
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or name.startswith(UNREAD):
                continue
            changed = tensors_in(path)
            flat = tensor.flatten().clone()
            flat[-1] = bad
            weights_of(changed)[name] = flat.view(tensor.shape)
            rewrite(path, changed)
            assert "finite" in refused(case, f"{name} of {path.name} holds {bad}"), name
            path.write_bytes(whole)


class Harm:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return subprocess.call, (["touch", str(self.path)],)


@every
def test_a_pickle_in_the_place_of_any_file_is_not_run(case: Path, tmp_path: Path) -> None:
    for path in files(case, *TENSORS):
        whole = path.read_bytes()
        for modern in (True, False):
            value = tensors_in(path)
            weights_of(value)["more"] = Harm(tmp_path / "ran")
            torch.save(value, path, _use_new_zipfile_serialization=modern)
            assert path.name in refused(case, f"{path.name} holds code")
            assert not (tmp_path / "ran").exists()
            path.write_bytes(whole)


@every
def test_headers_and_archives_that_grow_are_not_read(case: Path) -> None:
    for path in files(case, *TENSORS):
        whole = path.read_bytes()
        if path.suffix == ".safetensors":
            path.write_bytes(struct.pack("<Q", 100_000_000) + b"{}")
            os.truncate(path, 100_000_100)
        else:
            with zipfile.ZipFile(path) as good:
                members = [(member.filename, good.read(member)) for member in good.infolist()]
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
                for name, data in members:
                    packed.writestr(name, data + bytes(1_000_000))
        assert path.name in refused(case, f"{path.name} grows")
        path.write_bytes(whole)


@every
def test_configurations_that_are_none_are_refused(case: Path) -> None:
    for path in files(case, ".json", ".yaml", ".toml"):
        whole = path.read_bytes()
        for content in (b"", b"{", b"[1, 2]", b"\xff\xfe", b"words: [", b"[" * 100_000):
            path.write_bytes(content)
            refused(case, f"{path.name} is {content[:10]!r}")
        path.write_bytes(whole)


def tables(value: Any) -> Iterator[dict[str, Any]]:
    """All tables in a configuration."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from tables(item)


@every
def test_any_value_of_a_setting_is_understood_or_refused(case: Path) -> None:
    readers: dict[str, tuple[Callable[[str], Any], Callable[[Any], str]]] = {
        ".json": (json.loads, json.dumps),
        ".yaml": (yaml.safe_load, yaml.safe_dump),
    }
    for path in files(case, *readers):
        read, dump = readers[path.suffix]
        whole = path.read_text()
        keys = [(n, key) for n, table in enumerate(tables(read(whole))) for key in table]
        for n, key in keys:
            for bad in (None, "nonsense", -1, 10**12, 1.5, [], {"a": 1}, "../../x"):
                table = read(whole)
                list(tables(table))[n][key] = bad
                path.write_text(dump(table))
                with contextlib.suppress(UserError):
                    loaded(case)
        path.write_text(whole)


@every
def test_settings_nobody_knows_are_refused_or_change_nothing(case: Path) -> None:
    before = [dictionary.fingerprint() for dictionary in loaded(case)]
    for path in files(case, ".json"):
        whole = path.read_text()
        for table in range(len(list(tables(json.loads(whole))))):
            value = json.loads(whole)
            list(tables(value))[table]["mystery_scaling"] = 2.0
            path.write_text(json.dumps(value))
            try:
                after, said = [dictionary.fingerprint() for dictionary in loaded(case)], ""
            except UserError as error:
                after, said = before, str(error)
            assert after == before
            assert not said or "mystery_scaling" in said
        path.write_text(whole)


@every
def test_links_that_lead_out_are_refused(case: Path, tmp_path: Path) -> None:
    for path in files(case, *TENSORS):
        outside = tmp_path / "outside" / path.name
        outside.parent.mkdir(exist_ok=True)
        path.rename(outside)
        path.symlink_to(outside)
        assert "link that leads out" in refused(case, f"{path.name} is a link")
        path.unlink()
        outside.rename(path)
