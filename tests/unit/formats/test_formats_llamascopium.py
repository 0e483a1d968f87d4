"""llamascopium: what its own code computes, and the traps of its files."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from monoscope import formats
from monoscope.core.errors import ConfigError, DataError
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.dictionaries.variants import JumpReLU
from monoscope.formats.blob import FileBlob
from monoscope.formats.open import find
from monoscope.formats.opened import Opened

GOLDEN = Path(__file__).parents[2] / "golden" / "llamascopium"
CASES = sorted(path.name for path in GOLDEN.iterdir())
BATCH = [name for name in CASES if "batch" in name]


def opened(name: str, **choices: str) -> Opened:
    if name.endswith("_folded"):
        choices = {"folded": "yes"} | choices
    return formats.open(GOLDEN / name, **choices)


def computed(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """What the library read, and the features and reconstruction it made of that, with features of layers in a row."""
    held = load_file(GOLDEN / name / "io.safetensors")
    acts = held["acts"].flatten(-2) if name.startswith("clt") else held["acts"]
    return held["x"], acts[:, 0] if name == "crosscoder_relu" else acts, held["recon"]


def check(dictionary: Dictionary, name: str) -> None:
    x, expected, recon = computed(name)
    acts = dictionary.encode(x)
    assert torch.equal(acts.dense() != 0, expected != 0), "the same features fire"
    torch.testing.assert_close(acts.dense(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dictionary.decode(acts, x), recon, rtol=1e-5, atol=1e-5)


def copied(name: str, directory: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / name, directory / name))


def changed(directory: Path, **settings: Any) -> Path:
    """A golden directory with other settings; None takes one away."""
    config = json.loads((directory / "config.json").read_text()) | settings
    kept = {key: value for key, value in config.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(kept))
    return directory


@pytest.mark.parametrize("name", [name for name in CASES if name not in BATCH])
def test_features_and_reconstructions_are_those_of_its_own_code(name: str) -> None:
    check(opened(name).dictionary(), name)


@pytest.mark.parametrize("name", BATCH)
def test_a_batch_function_computes_as_its_own_code_once_it_has_thresholds(name: str) -> None:
    found = opened(name)
    stand_in = {"kind": "layer_topk", "k": 9} if "layer" in name else {"kind": "topk", "k": 4}
    assert found.table["function"] == stand_in
    assert "holds no threshold: read as" in " ".join(found.about.warnings)
    dictionary = found.dictionary()
    between = torch.tensor(json.loads((GOLDEN / name / "made.json").read_text())["thresholds"])
    every = between.repeat_interleave(dictionary.n_features // len(between))
    dictionary.activation = JumpReLU(JumpReLU.Config(), every).eval()
    check(dictionary, name)


def test_every_kind_of_dictionary_and_of_file_is_here() -> None:
    kinds = {opened(name).table["wiring"]["kind"] for name in CASES}
    assert kinds == {"autoencoder", "crosscoder", "cross_layer", "molt", "lorsa"}
    files = {Path(opened(name).about.files[1]).suffix for name in CASES}
    assert files == {".safetensors", ".pt", ".dcp"}


@pytest.mark.parametrize("name", CASES)
def test_a_direction_is_a_row_of_the_decoder(name: str) -> None:
    found = opened(name)
    if found.table["wiring"]["kind"] == "molt":
        return
    dictionary = found.dictionary()
    for site in dictionary.writes:
        rows = dictionary.decoder_rows(site, torch.tensor([5]))
        assert rows is not None
        torch.testing.assert_close(found.direction(5, site).float(), rows[0])


def test_one_row_of_a_clt_does_not_read_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n, d = 4000, 8
    weights = {"W_E": torch.zeros(2, d, n), "b_E": torch.zeros(2, n)}
    weights |= {f"W_D.{t}": torch.randn(t + 1, n, d) for t in range(2)} | {f"b_D.{t}": torch.zeros(d) for t in range(2)}
    hooks = {
        name: [f"blocks.{i}.hook_{kind}" for i in range(2)] for name, kind in (("in", "resid_mid"), ("out", "mlp_out"))
    }
    config = {
        "sae_type": "clt",
        "d_model": d,
        "expansion_factor": n / d,
        "act_fn": "relu",
        "norm_activation": "inference",
    }
    config |= {"hook_points_in": hooks["in"], "hook_points_out": hooks["out"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(weights, tmp_path / "sae_weights.safetensors")
    found, read = formats.open(tmp_path), []
    into = FileBlob.into

    def counted(self: FileBlob, spans: Any, buffer: memoryview) -> None:
        read.append(sum(stop - start for start, stop in spans))
        into(self, spans, buffer)

    monkeypatch.setattr(FileBlob, "into", counted)
    rows = found.tensors["W_dec.0"].rows([3999])
    assert sum(read) == 2 * d * 4
    assert torch.equal(rows[0], torch.stack([weights["W_D.0"][0, 3999], weights["W_D.1"][0, 3999]]))


class TestScales:
    def test_features_keep_the_units_of_training_and_how_much_larger_they_are_is_said(self) -> None:
        for name in ("sae_jumprelu", "clt_jumprelu", "crosscoder_topk", "molt_jumprelu", "lorsa_topk"):
            found = opened(name)
            held = load_file(GOLDEN / name / "sae_weights.safetensors")
            config = json.loads((GOLDEN / name / "config.json").read_text())
            hooks = config.get("hook_points") or config.get("hook_points_in") or [config["hook_point_in"]]
            norms = [held[f"dataset_average_activation_norm.{hook}"].item() for hook in hooks]
            scales = [math.sqrt(8) / norm for norm in norms]
            scale = found.table["acts_scale"]
            assert (scale if isinstance(scale, list) else [scale]) == pytest.approx(scales)
        assert opened("sae_topk").table["acts_scale"] == 1.0

    @pytest.mark.parametrize("name", ["sae_jumprelu_folded", "transcoder_jumprelu_folded", "clt_jumprelu_folded"])
    def test_a_second_fold_shows_in_every_reconstruction(self, name: str) -> None:
        x, _, recon = computed(name)
        for folded, is_right in (("no", False), ("yes", True)):
            dictionary = opened(name, folded=folded).dictionary()
            error = (dictionary(x).recon - recon).norm() / recon.norm()
            assert (error < 1e-5) == is_right
        assert "may be" not in (warnings := " ".join(formats.open(GOLDEN / name).about.warnings))
        assert "open it with folded=yes" in warnings
        assert formats.open(GOLDEN / name).about.chosen == {"folded": "no"}

    @pytest.mark.parametrize("is_folded", [False, True])
    def test_activations_tell_whether_the_weights_are_folded(self, tmp_path: Path, is_folded: bool) -> None:
        d, generator = 8, torch.Generator().manual_seed(0)
        mean = 20 * torch.rand(d, generator=generator)
        x = mean + 5 * torch.eye(d)[torch.randint(0, d, (400,), generator=generator)]
        average = x.norm(dim=1).mean().item()
        s = math.sqrt(d) / average  # which coordinate stands out is seen only if biases have the scale of activations
        weights = {"W_E": torch.eye(d), "W_D": torch.eye(d), "b_E": -mean * s, "b_D": mean * s}
        if is_folded:
            weights |= {"b_E": -mean, "b_D": mean}
        hook = "blocks.1.hook_resid_post"
        weights[f"dataset_average_activation_norm.{hook}"] = torch.tensor(average)
        save_file(weights, tmp_path / "sae_weights.safetensors")
        config = {"sae_type": "sae", "d_model": d, "expansion_factor": 1, "act_fn": "topk", "top_k": 1}
        config |= {"norm_activation": "dataset-wise", "hook_point_in": hook, "hook_point_out": hook}
        (tmp_path / "config.json").write_text(json.dumps(config))
        right, wrong = ("yes", "no") if is_folded else ("no", "yes")
        site = Site(1, "resid_post")
        fitted = find(tmp_path).fitted({site: x})
        assert fitted.about.chosen == {"folded": right}
        assert f"folded = {right}: FVU" in fitted.about.inferred[-1]
        assert formats.check(fitted.dictionary(), {site: x}).fvu < 1e-6
        assert formats.check(formats.load(tmp_path, choices={"folded": wrong}), {site: x}).fvu > 0.5

    def test_a_checkpoint_of_the_trainer_is_never_folded(self, tmp_path: Path) -> None:
        directory = copied("sae_jumprelu", tmp_path)
        (directory / "trainer.pt").write_bytes(b"")
        found = formats.open(directory)
        assert not found.about.warnings
        assert not found.about.chosen

    @pytest.mark.parametrize("norm", [0.0, -1.0, float("nan"), float("inf"), 1e-38, 3e20])
    def test_norms_that_are_what_was_in_memory_are_refused(self, tmp_path: Path, norm: float) -> None:
        directory = copied("sae_jumprelu", tmp_path)
        weights = load_file(directory / "sae_weights.safetensors")
        key = next(key for key in weights if key.startswith("dataset_average"))
        save_file(weights | {key: torch.tensor(norm)}, directory / "sae_weights.safetensors")
        with pytest.raises(DataError, match=r"is .*, which is no average norm of activations"):
            formats.open(directory)
        assert formats.open(directory, folded="yes").dictionary().n_features == 24

    def test_norms_do_not_matter_where_weights_are_folded(self, tmp_path: Path) -> None:
        directory = copied("sae_topk", tmp_path)
        weights = load_file(directory / "sae_weights.safetensors")
        key = next(key for key in weights if key.startswith("dataset_average"))
        save_file(weights | {key: torch.tensor(float("nan"))}, directory / "sae_weights.safetensors")
        check(formats.open(directory).dictionary(), "sae_topk")

    def test_a_missing_norm_is_named(self, tmp_path: Path) -> None:
        directory = copied("sae_jumprelu", tmp_path)
        weights = load_file(directory / "sae_weights.safetensors")
        kept = {key: value for key, value in weights.items() if not key.startswith("dataset_average")}
        save_file(kept, directory / "sae_weights.safetensors")
        with pytest.raises(DataError, match=r"lack dataset_average_activation_norm\.blocks\.1\.hook_resid_post"):
            formats.open(directory)

    def test_normalization_that_needs_the_batch_or_the_target_is_refused(self, tmp_path: Path) -> None:
        for name, kind in (("sae_topk", "batch-wise"), ("transcoder_glu", "token-wise"), ("clt_topk", "token-wise")):
            directory = changed(copied(name, tmp_path / kind), norm_activation=kind)
            with pytest.raises(DataError, match=f"norm_activation '{kind}'"):
                formats.open(directory)

    def test_thresholds_stay_in_fp32(self) -> None:
        held = load_file(GOLDEN / "sae_jumprelu_bf16" / "sae_weights.safetensors")
        stored = held["activation_function.log_jumprelu_threshold"]
        assert stored.dtype == torch.bfloat16
        threshold = opened("sae_jumprelu_bf16").tensors["activation.threshold"].read()
        assert torch.equal(threshold, stored.float().exp())
        assert not torch.equal(threshold, stored.exp().float())


class TestLorsa:
    def test_details_of_its_attention(self) -> None:
        norm, halves, none = (
            opened(f"lorsa_{name}").table["wiring"]["attention"] for name in ("topk", "jumprelu", "relu")
        )
        assert norm["norm"] == "rms"
        assert norm["scale"] == math.sqrt(6), "a divisor, by default the root of the head's width"
        assert norm["rotary"]["pairs"] == "adjacent"
        assert halves["scale"] == 1.7
        assert halves["rotary"]["pairs"] == "halves"
        assert len(halves["rotary"]["frequencies"]) == 2, "the first coordinates alone are turned"
        assert "rotary" not in none
        assert opened("lorsa_topk").about.context_length == 12

    def test_fewer_stored_heads_serve_for_several(self, tmp_path: Path) -> None:
        directory = changed(copied("lorsa_topk", tmp_path), n_qk_heads=4)
        dictionary = formats.open(directory).dictionary()
        whole = opened("lorsa_topk").dictionary()
        twice = whole.get_parameter("W_Q").repeat_interleave(2, 0)
        assert torch.equal(dictionary.get_parameter("W_Q"), twice)
        x, expected, _ = computed("lorsa_topk")
        torch.testing.assert_close(dictionary.encode(x).dense(), expected, rtol=1e-5, atol=1e-5)

    def test_what_no_rule_is_known_for_is_refused(self, tmp_path: Path) -> None:
        for settings, message in (
            ({"rotary_scale": 2}, "rotary_scale 2"),
            ({"normalization_type": "LN"}, "norms queries and keys by 'LN'"),
            ({"positional_embedding_type": "shortformer"}, "positional_embedding_type 'shortformer'"),
            ({"n_qk_heads": 3}, "2 heads, and n_qk_heads is 3"),
        ):
            directory = changed(copied("lorsa_topk", tmp_path / message[:5]), **settings)
            with pytest.raises(DataError, match=message):
                formats.open(directory)


def test_a_crosscoder_over_snapshots_needs_to_be_told_its_site(tmp_path: Path) -> None:
    steps = ["step0", "step512", "step143000"]
    directory = changed(copied("crosscoder_jumprelu", tmp_path), hook_points=steps)
    with pytest.raises(ConfigError, match=r"labels of models or snapshots, say at which site, as site=6\.resid_post"):
        formats.open(directory)
    for site in ("6.resid_post", "blocks.6.hook_resid_post"):
        found = formats.open(directory, site=site)
        assert found.table["reads"] == [f"6.resid_post@{step}" for step in steps]
        check(found.dictionary(), "crosscoder_jumprelu")
    done = formats.convert(directory, tmp_path / "again", "llamascopium", site="6.resid_post")
    assert "the site, 6.resid_post, which is the same in all models" in done.receipt.lost[0]
    assert json.loads((tmp_path / "again" / "config.json").read_text())["hook_points"] == steps
    with pytest.raises(ConfigError, match="the choice of a site is for crosscoders"):
        formats.open(GOLDEN / "sae_topk", site="6.resid_post")


def test_settings_of_its_older_versions_that_change_nothing(tmp_path: Path) -> None:
    settings = {"sae_pretrained_name_or_path": "", "strict_loading": True, "sparsity_threshold_for_csr": 0.05}
    found = formats.open(changed(copied("sae_topk", tmp_path), **settings, skip_bos=True))
    check(found.dictionary(), "sae_topk")
    assert found.about.skip_first == 1


def test_settings_that_are_not_there_are_said_to_be_supplied(tmp_path: Path) -> None:
    missing = dict.fromkeys(["use_decoder_bias", "sparsity_include_decoder_norm"])
    found = formats.open(changed(copied("sae_topk", tmp_path), **missing))
    assert "sparsity_include_decoder_norm is not in config.json, and so True" in found.about.inferred
    check(found.dictionary(), "sae_topk")
    assert not any("is not in config.json" in words for words in opened("sae_topk").about.inferred)


class TestBadFiles:
    @pytest.mark.parametrize(
        ("settings", "error", "message"),
        [
            ({"sae_type": "saw"}, DataError, "sae_type 'saw', which is not read; did you mean 'sae'"),
            ({"apply_b_dec": True}, ConfigError, "sets apply_b_dec, for which no rule is known"),
            ({"act_fn": "gelu"}, DataError, "act_fn 'gelu' for sae_type 'sae'"),
            ({"act_fn": "layertopk"}, DataError, "act_fn 'layertopk' for sae_type 'sae'"),
            ({"top_k": "many"}, ConfigError, "top_k = 'many', where a int is expected"),
            ({"d_model": None}, ConfigError, "no 'd_model', where a int is expected"),
            ({"expansion_factor": 4}, DataError, r"W_E in .* is \[8, 24\], expected \[8, 32\]"),
            ({"use_decoder_bias": False}, DataError, "holds b_D, for which no rule is known"),
            ({"use_glu_encoder": True}, DataError, "lacks W_E_glu, b_E_glu"),
            ({"hook_point_in": "blocks.1.hook_nowhere"}, ConfigError, "names a hook point that is no site"),
        ],
    )
    def test_settings(self, tmp_path: Path, settings: dict, error: type, message: str) -> None:
        directory = changed(copied("sae_topk", tmp_path), **settings)
        with pytest.raises(error, match=message):
            formats.open(directory)

    def test_a_pickle_that_needs_code(self, tmp_path: Path) -> None:
        class Harmful:
            def __reduce__(self) -> Any:
                return eval, ("1 / 0",)

        directory = copied("transcoder_topk_pt", tmp_path)
        torch.save({"sae": {}, "version": Harmful()}, directory / "sae_weights.pt")
        with pytest.raises(DataError, match="that would run its code"):
            formats.open(directory)
        torch.save([1, 2], directory / "sae_weights.pt")
        with pytest.raises(DataError, match="does not hold a table 'sae'"):
            formats.open(directory)

    def test_weights_that_are_not_there(self, tmp_path: Path) -> None:
        directory = copied("sae_topk", tmp_path)
        (directory / "sae_weights.safetensors").unlink()
        with pytest.raises(DataError, match="no dictionary of a known layout"):
            formats.open(directory)

    def test_weights_in_the_order_in_which_the_library_takes_them(self, tmp_path: Path) -> None:
        directory = copied("sae_topk", tmp_path)
        (directory / "checkpoints").mkdir()
        for name in ("pruned", "final"):
            shutil.copy(directory / "sae_weights.safetensors", directory / "checkpoints" / f"{name}.safetensors")
        assert formats.open(directory).about.files[1] == "sae_weights.safetensors"
        (directory / "sae_weights.safetensors").unlink()
        assert formats.open(directory).about.files[1] == "checkpoints/pruned.safetensors"
        check(formats.open(directory).dictionary(), "sae_topk")


def test_a_directory_of_several_is_opened_entry_by_entry(tmp_path: Path) -> None:
    for name in ("sae_topk", "lorsa_topk", "transcoder_dcp"):
        copied(name, tmp_path)
    found = find(tmp_path)
    assert found.entries() == ["lorsa_topk", "sae_topk", "transcoder_dcp"]
    assert formats.open(tmp_path / "sae_topk").layout == "llamascopium"
    with pytest.raises(DataError, match="set of 3 dictionaries"):
        formats.open(tmp_path)
