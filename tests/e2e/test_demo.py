"""The demo, on a small share of its tokens: everything it promises is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monoscope.demo.run import run
from monoscope.dictionaries import load
from monoscope.features import FeatureBundle


@pytest.mark.slow
def test_the_demo_trains_measures_and_shows(tmp_path: Path) -> None:
    result = run(tmp_path / "demo", scale=0.04)
    assert 0 < result["FVU"] < 0.8
    assert 0 < result["L0"] <= 32
    assert 0.3 < result["CE recovered"] <= 1
    page = Path(result["page"])
    text = page.read_text(encoding="utf-8")
    assert "<html" in text
    assert "default-src 'none'" in text  # so that a browser refuses any request
    assert not re.search(r"""(src|href)=["']?https?:""", text)  # contexts may quote addresses
    assert load(tmp_path / "demo" / "dictionary").n_features == 16 * 192
    FeatureBundle.open(tmp_path / "demo" / "features.mono").verify()
