from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_text_model import tiny_lm, tiny_tokenizer

from monoscope.core.config import Config
from monoscope.core.errors import ConfigError, DataError, ModelError
from monoscope.harvest import Datasets, Files, Sampled, StandardLibrary, TextSource
from monoscope.harvest.text import sources, standard_library
from monoscope.models import LanguageModel


class Wanted(Config):
    text: TextSource


def test_a_table_becomes_the_source_of_its_kind() -> None:
    config = Wanted.from_dict({"text": {"kind": "files", "paths": ["a.txt"], "field": "body"}})
    assert config.text == Files(paths=("a.txt",), field="body")
    assert Wanted.from_dict(config.to_dict()) == config


def test_kinds_that_are_not_known_are_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'standard_library'"):
        Wanted.from_dict({"text": {"kind": "standard_libary"}})
    assert list(TextSource.kinds()) == ["conversations", "datasets", "files", "sampled", "standard_library"]


def test_files_are_read_again_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"text": "three"}\n')
    documents = Files(paths=(f"{tmp_path}/*",)).build()
    assert list(documents) == list(documents) == ["one", "two", "three"]


def test_missing_files_are_found_before_anything_is_read() -> None:
    with pytest.raises(DataError, match="no file at nowhere.txt"):
        Files(paths=("nowhere.txt",)).build()


def library(root: Path) -> dict[str, set[str]]:
    for i in range(60):
        (root / f"m{i}.py").write_text(f"name = 'module {i}'\n")
    return {split: set(StandardLibrary(split=split).build()) for split in ("train", "held_out")}


def test_the_standard_library_is_split_by_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_library, "HELD_OUT_SHARE", 0.3)
    monkeypatch.setattr(sources, "standard_library_root", lambda: tmp_path)
    splits = library(tmp_path)
    assert not splits["train"] & splits["held_out"]
    assert len(splits["train"]) + len(splits["held_out"]) == 60
    assert 5 < len(splits["held_out"]) < 35


def test_a_python_without_sources_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "standard_library_root", lambda: tmp_path)
    with pytest.raises(DataError, match="carries no readable sources"):
        StandardLibrary().build()


def test_sampled_text_is_the_models_own_and_the_same_for_a_seed() -> None:
    lm = tiny_lm()
    source = Sampled(documents=5, tokens=12, at_once=2, seed=3, prompt="the cat")
    documents = list(source.build(lm))
    assert len(documents) == 5
    assert all(document.startswith("the cat") for document in documents)
    assert len(set(documents)) == 5
    assert list(source.build(lm)) == documents
    assert list(source.model_copy(update={"seed": 4}).build(lm)) != documents


def test_sampled_text_ends_at_the_end_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm()
    ids = lm.tokenizer("the cat sat", add_special_tokens=False)["input_ids"]

    def generate(tokens: Any, **options: Any) -> Any:
        return tokens.new_tensor([[1, *ids, 2, *ids]] * len(tokens))

    monkeypatch.setattr(lm, "generate", generate)
    assert list(Sampled(documents=2, tokens=9).build(lm)) == ["the cat sat"] * 2


def test_sampled_text_needs_a_model_and_something_to_start_from() -> None:
    with pytest.raises(ConfigError, match="needs a model"):
        Sampled().build()
    with pytest.raises(ConfigError, match="set a prompt"):
        Sampled().build(LanguageModel(tiny_lm().hf, tiny_tokenizer(eos_token="<eos>"), "no beginning"))


def test_windows_of_a_source_say_where_they_come_from(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat sat on the mat.\n" * 20)
    source = Files(paths=(str(tmp_path / "a.txt"),))
    windows = source.windows(tiny_lm(), context=16)
    assert windows.info["text"] == source.to_dict()
    assert windows.context == 16


def test_a_model_without_tokenizer_cannot_read_text() -> None:
    with pytest.raises(ModelError, match="has no tokenizer"):
        StandardLibrary().windows(LanguageModel(tiny_lm().hf, None, "bare"))


datasets = pytest.importorskip("datasets", reason="needs the package datasets")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    rows = datasets.Dataset.from_dict({"text": ["one", "", "two"], "n": [1, 2, 3]})
    datasets.DatasetDict({"train": rows, "test": rows.select([2])}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_datasets_saved_to_disk_are_read_by_split(saved: Path) -> None:
    assert list(Datasets(path=str(saved)).build()) == ["one", "two"]
    assert list(Datasets(path=str(saved), split="test").build()) == ["two"]
    assert list(Datasets(path=str(saved / "train")).build()) == ["one", "two"]


def test_a_directory_of_data_files_is_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in "ab"))
    assert list(Datasets(path=str(tmp_path / "data")).build()) == ["a", "b"]


def test_what_a_dataset_lacks_is_named(saved: Path) -> None:
    with pytest.raises(DataError, match="no split 'tests'; did you mean 'test'"):
        Datasets(path=str(saved), split="tests").build()
    with pytest.raises(DataError, match="no field 'txt'; did you mean 'text'"):
        Datasets(path=str(saved), field="txt").build()
    with pytest.raises(DataError, match="row 0: field 'n' is int, not text"):
        list(Datasets(path=str(saved), field="n").build())


def test_a_dataset_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot load the dataset .*missing"):
        Datasets(path=str(tmp_path / "missing")).build()


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'monoscope\[datasets\]'"):
        Datasets(path="anything").build()
