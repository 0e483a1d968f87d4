"""What Llama Scope asks of a suite: longer contexts than trained on, a finetuned model, and the geometry of features.

Source: He et al. 2024 (arXiv:2410.20526). The model is read once for all dictionaries of a table.

    contexts    FVU, L0 and CE added at positions within the trained context and beyond it
    tuned       the same dictionaries in a finetuned copy of their model, on the same text
    widths      for each site, each width against the next wider one: kept, split and new features
    neighbors   within each dictionary: nearest other feature, decoder norms

Geometry is that of features that fire on the text: directions of dead ones are where they were started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from monoscope.core.errors import DataError
from monoscope.dictionaries import Dictionary
from monoscope.evals.geometry import Neighbors, Splitting, neighbors, splitting
from monoscope.evals.positions import ByPosition, Span, by_position
from monoscope.evals.suite import markdown
from monoscope.harvest import SkipPolicy, TokenWindows
from monoscope.models import LanguageModel

WIDE = {"n_narrow": "features", "n_wide": "wider", "kept_share": "kept", "split_share": "split", "children": "children",
        "new_share": "new", "chance_kept_share": "kept by chance"}  # fmt: skip
NEAR = {"n": "features", "nearest_median": "nearest cosine", "chance": "by chance", "near_share": "near",
        "norm_median": "decoder norm", "norm_spread": "norm 95 % / 5 %"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SuiteReport:
    """The analyses of a suite; dictionaries by name."""

    trained_context: int
    contexts: dict[str, tuple[Span, ...]]
    tuned: dict[str, tuple[Span, Span]] | None
    splitting: dict[str, Splitting]
    neighbors: dict[str, Neighbors]
    tuned_name: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The whole as JSON values."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Tables, one for each analysis."""
        parts = ["## Contexts longer than trained on\n", self._contexts()]
        if self.tuned is not None:
            parts += [f"## In a finetuned copy, {self.tuned_name}\n", self._tuned()]
        if self.splitting:
            threshold = next(iter(self.splitting.values())).threshold
            parts += [
                "## From a width to the next\n",
                f"Features kept: with one of the wider dictionary's within a cosine of {threshold:g}. Split: nearest "
                "to two or more of those. Children: how many, on average. New: of the wider ones, without any near.\n",
                markdown({name: asdict(row) for name, row in self.splitting.items()}, WIDE),
            ]
        parts += ["## Nearest features and decoder norms\n", self._neighbors()]
        return "\n".join(parts)

    def _contexts(self) -> str:
        spans = next(iter(self.contexts.values()))
        titles = {f"{key}_{at}": f"{title} {span.first}-{span.last}" for key, title in (
            ("fvu", "FVU"), ("l0", "L0"), ("ce_added", "CE added")) for at, span in enumerate(spans)}  # fmt: skip
        rows = {
            name: {
                f"{key}_{at}": getattr(span, key) for key in ("fvu", "l0", "ce_added") for at, span in enumerate(row)
            }
            for name, row in self.contexts.items()
        }
        said = f"Trained on windows of {self.trained_context} tokens; columns are positions in longer windows.\n\n"
        return said + markdown(rows, titles)

    def _tuned(self) -> str:
        assert self.tuned is not None, "asked for where there is one"
        titles = {f"{key}_{which}": f"{title}, {which}" for key, title in (
            ("fvu", "FVU"), ("l0", "L0"), ("ce_added", "CE added")) for which in ("base", "tuned")}  # fmt: skip
        rows = {
            name: {
                f"{key}_{which}": getattr(span, key)
                for key in ("fvu", "l0", "ce_added")
                for which, span in zip(("base", "tuned"), pair, strict=True)
            }
            for name, pair in self.tuned.items()
        }
        return markdown(rows, titles)

    def _neighbors(self) -> str:
        rows = {
            name: asdict(row)
            | {
                "nearest_median": row.nearest[1],
                "norm_median": row.norms[1],
                "norm_spread": row.norms[2] / max(row.norms[0], 1e-12),
            }
            for name, row in self.neighbors.items()
        }
        return markdown(rows, NEAR)


def suite_report(
    lm: LanguageModel,
    dictionaries: Mapping[str, Dictionary],
    longer: TokenWindows,
    *,
    trained_context: int,
    tuned: LanguageModel | None = None,
    threshold: float = 0.7,
    batch: int = 16,
    skip: SkipPolicy,
) -> SuiteReport:
    """Every analysis of a suite, on windows longer than its dictionaries were trained on.

    tuned: a finetuned copy of ``lm``; threshold: the cosine from which two directions count as near
    """
    edges = [0, *range(trained_context // 2, longer.context + 1, max(1, trained_context // 2))]
    edges = [*edges[:-1], longer.context]
    within = by_position(lm, dictionaries, longer, edges, batch=batch, skip=skip)
    both = None
    if tuned is not None:
        whole = [0, longer.context]
        pair = [by_position(one, dictionaries, longer, whole, batch=batch, skip=skip) for one in (lm, tuned)]
        both = {name: (pair[0][name].spans[0], pair[1][name].spans[0]) for name in dictionaries}
    rows = {name: _alive(name, dictionary, within[name]) for name, dictionary in dictionaries.items()}
    return SuiteReport(
        trained_context=trained_context,
        contexts={name: found.spans for name, found in within.items()},
        tuned=both,
        splitting={
            f"{narrow} -> {dictionaries[wide].n_features:,}": splitting(rows[narrow], rows[wide], threshold)
            for narrow, wide in _width_pairs(dictionaries)
        },
        neighbors={name: neighbors(directions, threshold) for name, directions in rows.items()},
        tuned_name=None if tuned is None else tuned.name,
    )


def _alive(name: str, dictionary: Dictionary, found: ByPosition) -> Any:
    rows = dictionary.decoder_rows(dictionary.writes[0])
    if rows is None:
        raise DataError(f"{name}: features of a {type(dictionary).__name__} are maps, and have no geometry")
    directions = rows[found.density > 0]
    if len(directions) < 2:
        raise DataError(f"{name}: fewer than two features fire on this text, so they have no geometry")
    return directions


def _width_pairs(dictionaries: Mapping[str, Dictionary]) -> list[tuple[str, str]]:
    """Names of each dictionary and the next wider one of the same sites."""
    by_site: dict[Any, list[str]] = {}
    for name, dictionary in dictionaries.items():
        by_site.setdefault((dictionary.reads, dictionary.writes), []).append(name)
    ordered = (sorted(names, key=lambda name: dictionaries[name].n_features) for names in by_site.values())
    return [pair for names in ordered for pair in pairwise(names)]
