"""SAELens, sparsify and dictionary_learning: what files leave open, sets of them, and files that cannot be meant."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from monoscope import formats
from monoscope.core.errors import UserError
from monoscope.core.site import Site
from monoscope.formats.blob import FileBlob
from monoscope.formats.check import check
from monoscope.formats.lens_models import hub_model, lens_model

GOLDEN = Path(__file__).parents[2] / "golden"


def copied(case: str, path: Path) -> Path:
    """A golden case to break."""
    place = path / Path(case).name
    shutil.copytree(GOLDEN / case, place)
    return place


def edit_json(file: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    table = json.loads(file.read_text())
    edit(table)
    file.write_text(json.dumps(table))


def edit_tensors(file: Path, edit: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(file)
    edit(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, file)


def io(case: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / case / "io.safetensors")


# --- what is known beside the weights


def test_saelens_says_model_text_and_what_was_measured() -> None:
    about = formats.open(GOLDEN / "saelens/standard").about
    assert (about.model, about.prepend_bos, about.context_length) == ("openai-community/gpt2", True, 128)
    assert about.library == "SAELens 6.54.12"
    fired = (io("saelens/standard")["acts"] > 0).float().sum(1).mean().item()
    assert about.published["l0"] == pytest.approx(fired, rel=1e-5)
    trained = formats.open(GOLDEN / "saelens/trained_topk/final").about
    assert trained.published["l0"] == pytest.approx(3, abs=1e-3)
    assert trained.trained["architecture"] == "topk"


@pytest.mark.parametrize(
    ("said", "hub"),
    [
        ("gpt2-small", "openai-community/gpt2"),
        ("gpt2", "openai-community/gpt2"),
        ("gpt2-xl", "openai-community/gpt2-xl"),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
        ("gemma-2-2b-it", "google/gemma-2-2b-it"),
        ("gemma-2b", "google/gemma-2b"),
        ("gemma-3-1b-pt", "google/gemma-3-1b-pt"),
        ("qwen3-0.6b", "Qwen/Qwen3-0.6B"),
        ("qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("llama-3.2-1b", "meta-llama/Llama-3.2-1B"),
        ("Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
        ("phi-1_5", "microsoft/phi-1_5"),
        ("google/gemma-2-9b", "google/gemma-2-9b"),
        ("https://huggingface.co/gpt2", "openai-community/gpt2"),
        ("my-own-model", "my-own-model"),
    ],
)
def test_models_have_the_names_of_the_hub(said: str, hub: str) -> None:
    assert hub_model(said) == hub
    assert hub_model(lens_model(hub)) == hub


def test_what_no_file_says_is_said_to_be_inferred() -> None:
    opened = formats.open(GOLDEN / "saelens_old/oldest")
    words = " ".join(opened.about.inferred)
    assert "apply_b_dec_to_input is not in cfg.json, and so true" in words
    assert "architecture" in words
    folded = formats.open(GOLDEN / "saelens/expected_average").about.inferred
    assert any("activation scale is folded in" in words for words in folded)


def test_checkpoints_of_saelens_are_in_units_of_training_unless_norms_were_rescaled() -> None:
    assert formats.open(GOLDEN / "saelens/checkpoint_standard").table["acts_scale"] == pytest.approx(0.37)
    assert formats.open(GOLDEN / "saelens/checkpoint_batchtopk_scaled").table["acts_scale"] == 1.0


def test_an_activation_scale_that_no_file_says_is_a_choice(tmp_path: Path) -> None:
    for case in ("checkpoint_standard", "checkpoint_topk"):
        place = copied(f"saelens/{case}", tmp_path)
        (place / "activation_scaler.json").unlink()
        values = io(f"saelens/{case}")
        opened = formats.open(place, scale="0.37")
        torch.testing.assert_close(opened.dictionary()(values["x"]).recon, values["recon"], rtol=1e-5, atol=1e-5)
        assert opened.about.chosen == {"scale": "0.37"}
        bare = formats.open(place)
        assert any("scale = sqrt(d) / mean norm" in words for words in bare.about.inferred)
        assert not torch.allclose(bare.dictionary()(values["x"]).recon, values["recon"], rtol=0.1)
        with pytest.raises(UserError, match="scaling_factor is 'large'"):
            formats.open(place, scale="large")


def test_names_of_modules_settle_what_hook_names_leave_unclear(tmp_path: Path) -> None:
    place = copied("saelens/jumprelu_transcoder", tmp_path)
    said = {
        "model_name": "google/gemma-3-1b-pt",
        "hook_name": "blocks.5.hook_mlp_in",
        "hf_hook_name": "model.layers.5.pre_feedforward_layernorm.output",
        "hook_name_out": "blocks.5.hook_mlp_out",
        "hf_hook_name_out": "model.layers.5.post_feedforward_layernorm.output",
    }
    edit_json(place / "cfg.json", lambda table: table["metadata"].update(said))
    opened = formats.open(place)
    assert (opened.table["reads"], opened.table["writes"]) == (["5.mlp_in"], ["5.mlp_out"])
    assert any("read as the module says" in words for words in opened.about.warnings)


def test_a_transcoder_of_saelens_without_an_output_writes_that_of_the_mlp(tmp_path: Path) -> None:
    place = copied("saelens/transcoder", tmp_path)
    edit_json(place / "cfg.json", lambda table: table["metadata"].pop("hook_name_out"))
    opened = formats.open(place)
    assert opened.table["writes"] == ["1.mlp_out"]
    assert any("hook_name_out" in words for words in opened.about.inferred)


def test_a_mean_subtracted_residual_is_read_from_how_the_model_was_loaded(tmp_path: Path) -> None:
    place = copied("saelens/standard", tmp_path)
    kwargs = {"center_writing_weights": True}
    edit_json(place / "cfg.json", lambda table: table["metadata"].update(model_from_pretrained_kwargs=kwargs))
    opened = formats.open(place)
    assert opened.table["wiring"]["normalizer"] == "center"
    x, plain = io("saelens/standard")["x"], formats.load(GOLDEN / "saelens/standard")
    mean = x.mean(1, keepdim=True)
    torch.testing.assert_close(opened.dictionary()(x).recon, plain(x - mean).recon + mean, rtol=1e-5, atol=1e-5)


def test_a_scaling_factor_of_old_saelens_is_folded_into_the_decoder_or_refused(tmp_path: Path) -> None:
    place = copied("saelens_old/version_5", tmp_path)
    factor = torch.linspace(0.5, 2.0, 24)
    edit_tensors(place / "sae_weights.safetensors", lambda tensors: tensors.update(scaling_factor=factor))
    with pytest.raises(UserError, match="finetuning_scaling_factor"):
        formats.open(place)
    edit_json(place / "cfg.json", lambda table: table.update(finetuning_scaling_factor=True))
    x, plain = io("saelens_old/version_5")["x"], formats.load(GOLDEN / "saelens_old/version_5")
    recon = (plain(x).acts.dense() * factor) @ plain.decoder_rows(plain.writes[0]) + plain.get_parameter("b_dec")
    torch.testing.assert_close(formats.load(place)(x).recon, recon, rtol=1e-5, atol=1e-5)


def test_dictionary_learning_without_a_threshold_is_a_relu_and_says_so() -> None:
    opened = formats.open(GOLDEN / "dictionary_learning/batch_topk_no_threshold")
    assert any("threshold is -1" in words for words in opened.about.warnings)
    opened = formats.open(GOLDEN / "dictionary_learning/interrupted_normalized")
    assert any("norm_factor 3.7" in words for words in opened.about.warnings)
    assert any("did not finish, at step 40" in words for words in opened.about.warnings)


def test_dictionary_learning_takes_the_site_from_a_directory_or_a_choice(tmp_path: Path) -> None:
    place = copied("dictionary_learning/topk/trainer_0", tmp_path / "attn_out_layer0")
    edit_json(place / "config.json", lambda table: table["trainer"].pop("submodule_name"))
    assert formats.open(place).table["reads"] == ["0.attn_out"]
    unknown = copied("dictionary_learning/topk/trainer_0", tmp_path / "run")
    edit_json(unknown / "config.json", lambda table: table["trainer"].pop("submodule_name"))
    with pytest.raises(UserError, match=r"say site = '3\.resid_post'"):
        formats.open(unknown)
    assert formats.open(unknown, site="3.mlp_out").table["reads"] == ["3.mlp_out"]


def test_an_older_run_that_names_no_class_is_told_by_its_tensors(tmp_path: Path) -> None:
    place = copied("dictionary_learning/autoencoder/trainer_0", tmp_path)
    edit_json(place / "config.json", lambda table: table["trainer"].pop("dict_class"))
    opened = formats.open(place)
    values = io("dictionary_learning/autoencoder/trainer_0")
    torch.testing.assert_close(opened.dictionary()(values["x"]).recon, values["recon"], rtol=1e-5, atol=1e-5)


def test_a_checkpoint_of_dictionary_learning_is_opened_by_itself() -> None:
    file = GOLDEN / "dictionary_learning/trained_batch_topk/trainer_0/checkpoints/ae_20.pt"
    with pytest.raises(UserError, match=r"AutoEncoderTopK or BatchTopKSAE.*dict_class"):
        formats.open(file, "dictionary_learning", site="3.resid_post")
    chosen = {"site": "3.resid_post", "dict_class": "BatchTopKSAE"}
    assert formats.open(file, "dictionary_learning", **chosen).table["function"]["kind"] == "jumprelu"


def test_centering_of_an_old_transcoder_is_settled_by_activations() -> None:
    case = "sparsify/transcode_centered/layers.1.mlp"
    values = io(case)
    noise = torch.randn(values["recon"].shape, generator=torch.Generator().manual_seed(0))
    sites = {Site.parse("layers.1.mlp:in"): values["x"], Site.parse("layers.1.mlp:out"): values["recon"] + 0.1 * noise}
    opened = formats.find(GOLDEN / case).fitted(sites)
    assert opened.about.chosen["centering"] == "yes"
    assert 3 * check(opened.dictionary(), sites).fvu < check(formats.load(GOLDEN / case), sites).fvu
    other = "sparsify/transcode/layers.1.mlp"
    values = io(other)
    sites = {Site.parse("layers.1.mlp:in"): values["x"], Site.parse("layers.1.mlp:out"): values["recon"]}
    assert formats.find(GOLDEN / other).fitted(sites).about.chosen["centering"] == "no"


def test_runs_and_repositories_are_sets() -> None:
    found = formats.find(GOLDEN / "saelens/trained_batchtopk")
    assert found.entries() == ["3904", "final"]
    with pytest.raises(UserError, match="a set of 2 dictionaries"):
        found.open()
    assert formats.find(GOLDEN / "sparsify/trained_sae").entries() == ["layers.1"]
    assert formats.find(GOLDEN / "dictionary_learning/trained_standard").entries() == ["trainer_0"]
    assert len(formats.find(GOLDEN / "saelens").entries()) > 40


def test_one_direction_is_read_without_the_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    n, d = 4096, 64
    place = copied("saelens/topk_rescaled", tmp_path)
    edit_json(place / "cfg.json", lambda table: table.update(d_in=d, d_sae=n))
    numbers = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (d, n), "b_enc": (n,), "W_dec": (n, d), "b_dec": (d,)}
    tensors = {name: torch.randn(shape, generator=numbers) for name, shape in shapes.items()}
    save_file(tensors, place / "sae_weights.safetensors")
    read = 0
    into = FileBlob.into

    def counted(self: FileBlob, spans: Any, buffer: Any) -> None:
        nonlocal read
        read += sum(b - a for a, b in spans)
        into(self, spans, buffer)

    monkeypatch.setattr(FileBlob, "into", counted)
    opened = formats.open(place)
    opened.describe()
    direction = opened.direction(77)
    assert read < 2**15
    row = tensors["W_dec"][77]
    torch.testing.assert_close(direction, row / row.norm())


# --- files that cannot be meant

SAE, OLD, EAI = "saelens/jumprelu", "saelens_old/topk", "sparsify/topk/layers.1"
DL = "dictionary_learning/topk/trainer_0"
SITE = {"sae_lens_version": "6.1.0", "hook_name": "blocks.1.hook_resid_post"}
CONFIGS = {SAE: "cfg.json", OLD: "cfg.json", EAI: "cfg.json", DL: "config.json"}

BROKEN_CONFIGS: list[tuple[str, Mapping[str, Any], str]] = [
    (SAE, {"architecture": "jumpstart"}, "unknown architecture"),
    (SAE, {"architecture": "temporal"}, "attends to other tokens"),
    (SAE, {"architecture": "topk"}, "holds threshold"),
    (SAE, {"d_in": 9}, r"W_dec in .* is \[24, 8\], expected \[24, 9\]"),
    (SAE, {"d_sae": "many"}, "d_sae is 'many'"),
    (SAE, {"apply_b_dec_to_input": "perhaps"}, "true or false"),
    (SAE, {"normalize_activations": "zscore"}, "normalize_activations is 'zscore'"),
    (SAE, {"reshape_activations": "sideways"}, "reshape_activations"),
    (SAE, {"noise_floor": 0.1}, "noise_floor.*no rule is known"),
    (SAE, {"metadata": {"sae_lens_version": "7.0.1"}}, "SAELens 7.0.1"),
    (SAE, {"metadata": {"sae_lens_version": "soon"}}, "no version"),
    (SAE, {"metadata": {"sae_lens_version": "6.1.0"}}, "names no site"),
    (SAE, {"metadata": {**SITE, "hook_name": "blocks.1.hook_tea"}}, "hook_tea"),
    (SAE, {"metadata": {**SITE, "hook_head_index": 3}}, "one head"),
    (OLD, {"activation_fn": "tanh-relu"}, "activation_fn is 'tanh-relu'"),
    (OLD, {"activation_fn_kwargs": {"k": 5, "temperature": 2}}, "temperature"),
    (OLD, {"activation_fn_kwargs": {}}, "without activation_fn_kwargs.k"),
    (EAI, {"activation": "tanh"}, "activation is 'tanh'"),
    (EAI, {"signed": True}, "signed True"),
    (EAI, {"k": 0}, "k is 0"),
    (EAI, {"d_in": 16}, r"is \[24, 8\], expected"),
    (EAI, {"skip_connection": True, "transcode": True}, "lacks W_skip"),
    (EAI, {"temperature": 1.0}, "temperature.*no rule is known"),
    (DL, {"trainer": {"dict_class": "SuperEncoder"}}, "unknown class"),
    (DL, {"trainer": {"dict_class": "GatedAutoEncoder"}}, "lacks decoder_bias"),
    (DL, {"trainer": {"dict_class": "AutoEncoderTopK", "dict_size": 99}}, "dict_size 99"),
    (DL, {"trainer": {"dict_class": "AutoEncoderTopK", "k": 6}}, "says k 6"),
]


@pytest.mark.parametrize(("case", "change", "match"), BROKEN_CONFIGS)
def test_a_configuration_that_cannot_be_meant_is_refused_by_name(
    case: str, change: Mapping[str, Any], match: str, tmp_path: Path
) -> None:
    place = copied(case, tmp_path)
    edit_json(place / CONFIGS[case], lambda table: table.update(change))
    with pytest.raises(UserError, match=match):
        formats.open(place).dictionary()


BROKEN_TENSORS: list[tuple[str, Callable[[dict[str, Tensor]], Any], str]] = [
    (SAE, lambda t: t.pop("threshold"), "lacks threshold"),
    (SAE, lambda t: t.update(bias=torch.zeros(3)), "holds bias, for which no rule"),
    (SAE, lambda t: t.update(W_dec=t["W_dec"].T), r"W_dec in .* expected \[24, 8\]"),
    (SAE, lambda t: t["b_enc"].fill_(float("nan")), "not finite"),
    (OLD, lambda t: t.pop("b_enc"), "lacks b_enc"),
    (EAI, lambda t: t.pop("W_dec"), "lacks W_dec"),
    (EAI, lambda t: t.update({"encoder.weight": t["encoder.weight"].T}), "encoder.weight in"),
    (EAI, lambda t: t.update(W_skip=torch.zeros(8, 8)), "holds W_skip"),
]
WEIGHTS = {SAE: "sae_weights.safetensors", OLD: "sae_weights.safetensors", EAI: "sae.safetensors"}


@pytest.mark.parametrize(("case", "change", "match"), BROKEN_TENSORS)
def test_tensors_that_cannot_be_meant_are_refused_by_name(
    case: str, change: Callable[[dict[str, Tensor]], Any], match: str, tmp_path: Path
) -> None:
    place = copied(case, tmp_path)
    edit_tensors(place / WEIGHTS[case], change)
    with pytest.raises(UserError, match=match):
        formats.open(place).dictionary()


def test_a_truncated_file_and_a_pickle_with_code_are_refused(tmp_path: Path) -> None:
    place = copied(SAE, tmp_path)
    data = (place / "sae_weights.safetensors").read_bytes()
    (place / "sae_weights.safetensors").write_bytes(data[:-40])
    with pytest.raises(UserError, match="cut short"):
        formats.open(place)
    place = copied(DL, tmp_path)
    torch.save({"encoder.weight": print}, place / "ae.pt")
    with pytest.raises(UserError, match="not opened"):
        formats.open(place)


def test_a_factor_of_training_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for number, factor in enumerate((0.0, -1.0, "big")):
        place = copied("saelens/checkpoint_standard", tmp_path / str(number))
        edit_json(place / "activation_scaler.json", lambda table, factor=factor: table.update(scaling_factor=factor))
        with pytest.raises(UserError, match="scaling_factor is"):
            formats.open(place)
    place = copied("dictionary_learning/interrupted_normalized/trainer_0", tmp_path)
    held = torch.load(place / "ae.pt", weights_only=True)
    torch.save({**held, "norm_factor": 0.0}, place / "ae.pt")
    with pytest.raises(UserError, match="norm_factor"):
        formats.open(place)
