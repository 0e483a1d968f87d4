"""Loading whole models, and saying what is wrong with what is not one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from monoscope.core.errors import ModelError
from monoscope.models import LanguageModel
from monoscope.models.loading import model_class

SIZES = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small Llama and its tokenizer."""
    directory = tmp_path_factory.mktemp("models") / "llama"
    torch.manual_seed(0)
    hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES)).save_pretrained(directory)
    words = Tokenizer(WordLevel({"<s>": 0, "a": 1, "b": 2}, unk_token="a"))
    hf.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>").save_pretrained(directory)
    return directory


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def change_config(directory: Path, **changes: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def refusal(path: Path | str) -> str:
    with pytest.raises(ModelError) as raised:
        LanguageModel.from_pretrained(path)
    return str(raised.value)


def test_a_whole_model(whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lm = LanguageModel.from_pretrained(whole)
    assert (lm.n_layers, lm.d_model, lm.vocab_size, lm.bos_token_id) == (2, 16, 20, 0)
    assert lm.name == str(whole)
    assert lm.tokenizer is not None
    assert lm.tokenizer.encode("b", add_special_tokens=False) == [2]
    assert not lm.hf.training
    assert not any(parameter.requires_grad for parameter in lm.hf.parameters())
    assert lm.dtype == torch.float32
    assert capfd.readouterr().err == ""
    assert LanguageModel.from_pretrained(str(whole), dtype=torch.bfloat16).dtype == torch.bfloat16


def test_fingerprint_is_of_the_weights(whole: Path, copied: Path) -> None:
    lm = LanguageModel.from_pretrained(whole)
    assert lm.fingerprint() == lm.fingerprint() == LanguageModel.from_pretrained(copied).fingerprint()
    change_weights(copied, lambda tensors: tensors["model.norm.weight"][3:4].add_(1e-6))
    assert LanguageModel.from_pretrained(copied).fingerprint() != lm.fingerprint()


def test_without_a_tokenizer(copied: Path) -> None:
    for file in copied.glob("tokenizer*"):
        file.unlink()
    assert LanguageModel.from_pretrained(copied).tokenizer is None
    assert LanguageModel.from_pretrained(copied).bos_token_id == 1  # the config's


def test_a_model_saved_without_its_head(whole: Path, tmp_path: Path) -> None:
    hf.LlamaForCausalLM.from_pretrained(whole).model.save_pretrained(tmp_path / "base")
    lm, full = LanguageModel.from_pretrained(tmp_path / "base"), LanguageModel.from_pretrained(whole)
    tokens = torch.tensor([[1, 2, 3]])
    site = lm.resolve("1.resid_post")
    assert torch.equal(lm.read(tokens, [site])[site], full.read(tokens, [site])[site])
    with pytest.raises(ModelError, match="saved without a head"):
        lm.logits(tokens)
    with pytest.raises(ModelError, match="no unembedding"):
        lm.unembed()


def test_nothing_there(tmp_path: Path) -> None:
    assert "there is nothing at" in refusal(tmp_path / "absent")
    assert "there is nothing at" in refusal("./absent")
    (tmp_path / "file").write_text("text")
    assert "is a file" in refusal(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "the directory is empty" in refusal(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("text")
    assert "found notes.txt" in refusal(tmp_path / "empty")


def test_the_model_is_one_directory_down(whole: Path) -> None:
    assert f"did you mean {whole}?" in refusal(whole.parent)


def test_an_id_that_cannot_be_fetched() -> None:
    message = refusal("nobody/nothing")
    assert "no directory here, and could not be fetched" in message
    assert "EleutherAI/pythia-70m" in message


def test_what_the_cache_holds_whole_is_not_fetched(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--somebody--small"
    shutil.copytree(whole, repository / "snapshots" / "0123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    lm = LanguageModel.from_pretrained("somebody/small")
    assert lm.name == "somebody/small"
    assert lm.tokenizer is not None
    assert lm.fingerprint() == LanguageModel.from_pretrained(whole).fingerprint()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "is not JSON"),
        ("[1]", "names no model_type"),
        ('{"model_type": "lama"}', "did you mean 'llama'"),
        ('{"model_type": "weird", "auto_map": {"AutoConfig": "x.Y"}}', "trust_remote_code=True"),
    ],
)
def test_configs_of_no_model(copied: Path, text: str, expected: str) -> None:
    (copied / "config.json").write_text(text)
    assert expected in refusal(copied)


def test_a_config_with_a_wrong_value(copied: Path) -> None:
    change_config(copied, hidden_size="large")
    assert "cannot load" in refusal(copied)


def test_weights_that_are_not_whole(copied: Path) -> None:
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "is not a whole safetensors file" in refusal(copied)
    file.unlink()
    assert "has a config.json but no weights" in refusal(copied)
    index = copied / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    (copied / "model-1.safetensors").write_bytes(b"")
    assert "lacks 1 of 2 files of weights: model-2.safetensors" in refusal(copied)
    index.write_text("{}")
    assert "not an index of weights" in refusal(copied)


def test_weights_of_another_model(copied: Path) -> None:
    change_weights(copied, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    assert "lack tensors that LlamaForCausalLM needs: model.layers.1.mlp.up_proj.weight" in refusal(copied)
    change_weights(copied, lambda t: t.update({"model.layers.1.mlp.up_proj.weight": torch.zeros(24, 8)}))
    assert "model.layers.1.mlp.up_proj.weight is [24, 8], not [24, 16]" in refusal(copied)


def test_a_broken_tokenizer_is_not_passed_over(copied: Path) -> None:
    (copied / "tokenizer.json").write_text("{")
    assert "cannot load" in refusal(copied)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (hf.LlamaConfig(architectures=["LlamaForCausalLM"]), hf.LlamaForCausalLM),
        (hf.LlamaConfig(), hf.AutoModelForCausalLM),
        (hf.LlamaConfig(architectures=["LlamaTokenizer"]), hf.AutoModelForCausalLM),
        (hf.BertConfig(architectures=["BertForPreTraining"]), hf.BertForMaskedLM),
        (hf.BartConfig(architectures=["BartForConditionalGeneration"]), hf.BartForConditionalGeneration),
        (hf.CLIPConfig(architectures=["CLIPModel"]), hf.CLIPVisionModel),
        (hf.ViTConfig(), hf.AutoModel),
    ],
)
def test_the_class_of_a_checkpoint(config: hf.PreTrainedConfig, expected: type) -> None:
    assert model_class(config) is expected


def test_the_image_tower_of_a_clip_checkpoint(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = sizes | {"image_size": 8, "patch_size": 4}
    config = hf.CLIPConfig(text_config=sizes | {"vocab_size": 20}, vision_config=vision, projection_dim=8)
    clip = hf.CLIPModel(config).eval()
    clip.save_pretrained(tmp_path / "clip")
    lm = LanguageModel.from_pretrained(tmp_path / "clip")
    pixels = torch.randn(2, 3, 8, 8)
    site = lm.resolve("1.resid_post")
    expected = clip.vision_model(pixel_values=pixels).last_hidden_state
    assert torch.allclose(lm.read(pixels, [site])[site], expected, atol=1e-6)
    assert lm.tokenizer is None
