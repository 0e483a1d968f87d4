"""Loading a model from a directory or the Hugging Face hub, and saying what is wrong where there is none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from monoscope.core.errors import ModelError, nearest

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")
HELP = "give a directory with config.json and model.safetensors, or a Hugging Face id such as 'EleutherAI/pythia-70m'"


def load(
    path_or_id: str | os.PathLike[str], *, dtype: torch.dtype, trust_remote_code: bool, revision: str | None
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase | None]:
    """Model and tokenizer; None for a tokenizer where there is none. Raises ModelError.

    What the local cache of the hub holds whole is not fetched again, so that it loads without a network, and at once.
    """
    source = os.fspath(path_or_id)
    path = Path(source).expanduser()
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision or "main"}
    with _quiet():
        if path.exists() or _looks_like_path(source):
            check_directory(path)
            has_tokenizer = any((path / name).is_file() for name in TOKENIZER)
            with _explained(source, is_local=True):
                return _load(str(path), dtype, common, tokenizer="required" if has_tokenizer else "none")
        with suppress(OSError, ValueError):
            return _load(source, dtype, common | {"local_files_only": True}, tokenizer="required")
        with _explained(source, is_local=False):
            return _load(source, dtype, common, tokenizer="optional")


def _load(
    source: str, dtype: torch.dtype, common: dict[str, Any], *, tokenizer: Literal["required", "optional", "none"]
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase | None]:
    config = transformers.AutoConfig.from_pretrained(source, **common)
    model, info = model_class(config).from_pretrained(
        source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, weights_only=True, **common
    )
    _check_complete(source, type(model).__name__, info)
    if tokenizer == "none" or model.main_input_name != "input_ids":
        return model, None
    try:
        return model, transformers.AutoTokenizer.from_pretrained(source, **common)
    except (OSError, ValueError, KeyError):
        if tokenizer == "required":
            raise
        return model, None


def _check_complete(source: str, name: str, info: dict[str, Any]) -> None:
    """Raises ModelError if any weight would be left random."""
    wrong = sorted(info["missing_keys"])
    what = "lack tensors"
    if not wrong and info["mismatched_keys"]:
        wrong = sorted(f"{key} is {list(found)}, not {list(right)}" for key, found, right in info["mismatched_keys"])
        what = "have other shapes than the tensors"
    if wrong:
        some = ", ".join(wrong[:3]) + (f", and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise ModelError(
            f"the weights in {source} {what} that {name} needs: {some}. They would be random; copy or download the "
            "checkpoint again, or correct config.json"
        )


def model_class(config: transformers.PreTrainedConfig) -> Any:
    """The class a checkpoint was saved from, so that no head is invented and none is lost."""
    if config.model_type in ("clip", "clip_vision_model"):
        return transformers.CLIPVisionModel
    name = (config.architectures or [""])[0].replace("BertForPreTraining", "BertForMaskedLM")
    known = getattr(transformers, name, None) if name else None
    if isinstance(known, type) and issubclass(known, transformers.PreTrainedModel):
        return known
    remote = getattr(config, "auto_map", {})
    is_causal = "AutoModelForCausalLM" in remote or type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    return transformers.AutoModelForCausalLM if is_causal else transformers.AutoModel


def check_directory(path: Path) -> None:
    """Raises ModelError, saying what was found, unless a directory holds a config and whole weights."""
    if not path.exists():
        raise ModelError(f"there is nothing at {path}; {HELP}")
    if not path.is_dir():
        raise ModelError(f"{path} is a file; give the directory that holds config.json and model.safetensors")
    if not (path / "config.json").is_file():
        inside = [child.name for child in sorted(path.iterdir()) if (child / "config.json").is_file()]
        hint = f"did you mean {path / inside[0]}?" if inside else HELP
        raise ModelError(f"{path} is not a model: it has no config.json ({_contents(path)}); {hint}")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path / 'config.json'} is not JSON: {error}") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"{path / 'config.json'} names no model_type, so it is not a Hugging Face model's; {HELP}")
    kind = config["model_type"]
    if kind not in transformers.CONFIG_MAPPING and "auto_map" not in config:
        near = nearest(str(kind), transformers.CONFIG_MAPPING)
        raise ModelError(f"transformers {transformers.__version__} knows no model_type {kind!r} (in {path}); {near}")
    for file in _weight_files(path):
        _check_weights(file)


def _weight_files(path: Path) -> list[Path]:
    for name in WEIGHTS:
        if (path / name).is_file():
            return [path / name]
        index = path / f"{name}.index.json"
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, AttributeError):
                raise ModelError(f"{index} is not an index of weights; copy or download the model again") from None
            absent = [shard for shard in shards if not (path / shard).is_file()]
            if absent:
                names = ", ".join(absent[:3])
                raise ModelError(f"{path} lacks {len(absent)} of {len(shards)} files of weights: {names}")
            return [path / shard for shard in shards]
    raise ModelError(f"{path} has a config.json but no weights ({_contents(path)}); it needs model.safetensors")


def _check_weights(file: Path) -> None:
    if file.suffix != ".safetensors":
        return
    try:
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as error:
        size = file.stat().st_size
        raise ModelError(
            f"{file} is not a whole safetensors file ({size:,} bytes: {error}); copy or download it again"
        ) from None


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or "\\" in source or source.count("/") > 1 or not source


def _contents(path: Path) -> str:
    names = sorted(child.name for child in path.iterdir())
    if not names:
        return "the directory is empty"
    more = f", and {len(names) - 5} more" if len(names) > 5 else ""
    return f"found {', '.join(names[:5])}{more}"


@contextmanager
def _explained(source: str, *, is_local: bool) -> Iterator[None]:
    """Turns what transformers raises about a source into a ModelError."""
    try:
        yield
    except ModelError:
        raise
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, SafetensorError, StrictDataclassError) as error:
        found = " ".join(str(error).split())
        if "trust_remote_code" in found:
            raise ModelError(
                f"{source} comes with code of its own; read it, and if you trust it pass trust_remote_code=True"
            ) from error
        if is_local or not isinstance(error, OSError):
            raise ModelError(f"cannot load {source}: {found}") from error
        raise ModelError(f"{source!r} is no directory here, and could not be fetched: {found}; {HELP}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers from reporting on its loading; what matters of it becomes an error."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
