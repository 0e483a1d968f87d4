"""Site: names are read, checked and printed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monoscope.core.config import Config
from monoscope.core.errors import ConfigError, SiteError
from monoscope.core.site import KINDS, LAYER_KINDS, MODEL_KINDS, Site

layer_sites = st.builds(
    Site, st.integers(0, 999), st.sampled_from(LAYER_KINDS), st.sampled_from(["", "encoder", "decoder"])
)
model_sites = st.builds(Site, st.none(), st.sampled_from(MODEL_KINDS), st.sampled_from(["", "encoder", "decoder"]))
labels = st.just("") | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,8}", fullmatch=True)
paths = st.from_regex(r"[a-z_]+(\.[a-z0-9_]+){0,4}", fullmatch=True)
raw_sites = st.builds(lambda path, end: Site(None, end, module=path), paths, st.sampled_from(["in", "out"]))
sites = st.builds(Site.of, layer_sites | model_sites | raw_sites, labels)


@given(sites)
def test_names_read_back(site: Site) -> None:
    assert Site.parse(str(site)) == site
    assert Site.parse(site) is site
    assert hash(Site.parse(str(site))) == hash(site)


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("12.resid_post", Site(12, "resid_post")),
        ("encoder.3.mlp_out", Site(3, "mlp_out", "encoder")),
        ("embed", Site(None, "embed")),
        ("model.layers.2.mlp:out", Site(None, "out", module="model.layers.2.mlp")),
        ("blocks.12.hook_resid_post", Site(12, "resid_post")),
        ("blocks.0.attn.hook_z", Site(0, "z")),
        ("blocks.4.mlp.hook_post", Site(4, "mlp_act")),
        ("hook_embed", Site(None, "embed")),
        ("2.resid_post@step512", Site(2, "resid_post", model="step512")),
        ("decoder.2.q@base", Site(2, "q", "decoder", model="base")),
        ("model.layers.2.mlp:out@v1.5-chat", Site(None, "out", module="model.layers.2.mlp", model="v1.5-chat")),
        ("blocks.0.attn.hook_z@base", Site(0, "z", model="base")),
        ("logits@base", Site(None, "logits", model="base")),
        ("a@b:out", Site(None, "out", module="a@b")),
        ("a@b:out@c", Site(None, "out", module="a@b", model="c")),
    ],
)
def test_understood_names(name: str, site: Site) -> None:
    assert Site.parse(name) == site


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("2.resid_pots", "did you mean 'resid_post'"),
        ("resid_post", "needs a layer, as in '2.resid_post'"),
        ("3.embed", "has no layer"),
        ("blocks.1.hook_resid_psot", "did you mean 'hook_resid_post'"),
        ("", "write '2.resid_post'"),
        (":out", "write '2.resid_post'"),
        ("-1.resid_post", "write '2.resid_post'"),
        ("2.resid_post:sideways", "write '2.resid_post'"),
        ("2.resid_post ", "write '2.resid_post'"),
        ("2.resid_post@", "write '2.resid_post'"),
        ("@base", "write '2.resid_post'"),
        ("2.resid_pots@base", "did you mean 'resid_post'"),
        ("2.resid_post@a@b", "has a label already"),
    ],
)
def test_unreadable_names_say_what_would_be_right(name: str, says: str) -> None:
    with pytest.raises(SiteError, match=says):
        Site.parse(name)


def test_impossible_sites() -> None:
    with pytest.raises(SiteError, match="count from 0"):
        Site(-1, "resid_post")
    with pytest.raises(SiteError, match="':in' or ':out'"):
        Site(None, "resid_post", module="model.norm")
    with pytest.raises(SiteError, match="letters, digits and _ . [+] -, .* found 'a b'"):
        Site(2, "resid_post", model="a b")


def test_a_label_tells_models_apart() -> None:
    base, tuned = (Site(2, "resid_post").of(label) for label in ("base", "tuned"))
    assert base != tuned
    assert base.of("") == tuned.of("") == Site(2, "resid_post")
    assert base < tuned < Site(3, "resid_pre")


@given(st.text(max_size=30))
def test_any_text_is_a_site_or_a_site_error(name: str) -> None:
    try:
        site = Site.parse(name)
    except SiteError:
        return
    assert site.module is not None or site.kind in KINDS


@given(st.lists(sites, max_size=8))
def test_sites_have_one_order(sites: list[Site]) -> None:
    assert sorted(sites) == sorted(reversed(sites))


def test_layers_sort_as_numbers() -> None:
    assert Site(2, "resid_post") < Site(10, "resid_post")


class Placed(Config):
    reads: tuple[Site, ...]


def test_configs_hold_sites_and_files_hold_names() -> None:
    config = Placed.from_dict({"reads": ["2.resid_post", "model.norm:in"]})
    assert config.reads == (Site(2, "resid_post"), Site(None, "in", module="model.norm"))
    assert config.to_dict() == {"reads": ["2.resid_post", "model.norm:in"]}
    assert Placed.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(("reads", "says"), [(["2.resid_pots"], "did you mean"), ([12], "written as text")])
def test_configs_refuse_what_is_no_site(reads: list[object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Placed.from_dict({"reads": reads})
