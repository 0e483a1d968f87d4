"""Features that read sequences: their contexts show which tokens they were moved from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from feature_worlds import Text

from monoscope.core.batch import ActivationBatch
from monoscope.core.site import Site
from monoscope.dictionaries import Lorsa
from monoscope.dictionaries.variants import TopK
from monoscope.features import Analysis, FeatureBundle, analyze, analyze_part
from monoscope.features.collectors.contexts import SOURCES

IN, OUT = Site(0, "attn_in"), Site(0, "attn_out")
D, F = 10, 24


class Residual(Text):
    """Random sequences, with random activations that belong to the tokens."""

    sites = (IN, OUT)

    def __init__(self, tokens: torch.Tensor, at_once: int = 4) -> None:
        super().__init__(tokens, at_once=at_once)
        self.sites, self.widths = (IN, OUT), {IN: D, OUT: D}
        self.table = torch.randn(60, D, generator=torch.Generator().manual_seed(5))

    def __iter__(self) -> Iterator[ActivationBatch]:
        for batch in super().__iter__():
            assert batch.tokens is not None
            x = self.table[batch.tokens]
            yield ActivationBatch({IN: x, OUT: x}, batch.tokens)

    def part(self, number: int, of: int) -> Residual:
        part = super().part(number, of)
        own = Residual(part.tokens)
        own.first_row = part.first_row
        return own


def lorsa() -> Lorsa:
    form = {"d_head": 6, "scale": 2.0, "rotary": {"frequencies": [0.9, 0.2]}}
    config = Lorsa.Config.from_dict({"n_features": F, "n_heads": 3, "attention": form})
    out = config.build(TopK.Config(k=3), (IN,), (OUT,), {IN: D, OUT: D})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in out.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return out


def tokens() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 60, (40, 20)))


def test_contributions_to_chosen_activations_are_rows_of_the_z_patterns() -> None:
    dictionary, x = lorsa(), torch.randn(3, 7, D, generator=torch.Generator().manual_seed(1))
    sequence, feature, position = (torch.tensor(v) for v in ([2, 0, 2, 1], [23, 0, 5, 9], [6, 3, 0, 4]))
    rows = dictionary.contributions_at(x, sequence, feature, position)
    whole = dictionary.contributions(x, torch.arange(F))
    torch.testing.assert_close(rows, whole[sequence, feature, position])
    pre = dictionary.preacts(x)[sequence, position, feature]
    torch.testing.assert_close(rows.sum(1), pre)


def test_contexts_show_the_tokens_an_activation_was_moved_from(tmp_path: Path) -> None:
    dictionary = lorsa()
    bundle = analyze(dictionary, Residual(tokens()), tmp_path / "lorsa.mono", config=Analysis(window=8, top=3))
    x = Residual(tokens()).table[tokens()]
    whole = dictionary.contributions(x, torch.arange(F)).detach().numpy()
    seen = 0
    for index in range(F):
        for context in bundle.feature(index).contexts:
            if context.interval == -2:
                assert context.sources == ()
                continue
            expected = whole[
                context.sequence, index, context.max_pos
            ]  # every sequence is kept, so numbers are the same
            places, values = (np.array(part) for part in zip(*context.sources, strict=True))
            np.testing.assert_allclose(values, expected[places], rtol=1e-5, atol=1e-6)
            assert len(places) == min(SOURCES, np.count_nonzero(expected))
            assert np.abs(values).min() >= np.sort(np.abs(expected))[::-1][: len(places)].min() - 1e-6
            assert (np.diff(places) > 0).all()
            if len(places) == np.count_nonzero(expected):
                assert values.sum() == np.float32(context.max_act) or abs(values.sum() / context.max_act - 1) < 2e-3
            seen += 1
    assert seen > 100
    assert {"src_pos", "src_val"} <= set(bundle.manifest["optional"])
    bundle.verify()


def test_parts_keep_their_sources(tmp_path: Path) -> None:
    config = Analysis(window=8, top=3)
    whole = analyze(lorsa(), Residual(tokens()), tmp_path / "whole.mono", config=config)
    analyze_part(lorsa(), Residual(tokens()), tmp_path / "parts.mono", 1, 2, config=config)
    parts = analyze(lorsa(), Residual(tokens()), tmp_path / "parts.mono", config=config, ranks=2)
    for index in range(F):
        one, other = ([c.sources for c in bundle.feature(index).contexts] for bundle in (whole, parts))
        assert one == other


def test_features_of_single_tokens_have_no_sources(tmp_path: Path) -> None:
    from feature_worlds import lookup, world

    made, table = world()
    bundle = analyze(lookup(table), Text(made), tmp_path / "plain.mono")
    assert not {"src_pos", "src_val"} & set(bundle.manifest["optional"])
    assert all(context.sources == () for context in FeatureBundle.open(bundle.path).feature(0).contexts)
