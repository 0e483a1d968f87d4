"""Whether a difference between two methods may be called a win, from scores on the same seeds.

All of these must hold, on a metric declared beforehand:

    |mean difference| > 2 sd sqrt(2 / n)          sd pooled over the two methods, n seeds
    the 95 % interval of the mean difference, by bootstrap over seeds, excludes 0
    the difference has one sign in at least four seeds of five
    |mean difference| > the metric's own tolerance
    Holm's correction over the primary metrics leaves the paired t-test's p below 0.05
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

PRIMARY = {"mcc_adj": 0.02, "f1_hungarian": 0.02, "ev": 0.02}
"""The primary metrics of worlds, and the differences below which nothing is claimed."""

RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """A paired difference of two methods on one metric, and what speaks for it.

    interval: 95 %, of the mean difference; p: of the paired t-test, before correction
    """

    mean: float
    least: float
    interval: tuple[float, float]
    share_of_sign: float
    p: float

    def holds(self, tolerance: float) -> bool:
        """Whether everything but the correction over metrics speaks for a difference."""
        excluded = self.interval[0] > 0 or self.interval[1] < 0
        return abs(self.mean) > max(self.least, tolerance) and excluded and self.share_of_sign >= 0.8


def difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """``a - b``, seed by seed. Needs two seeds at least."""
    assert len(a) == len(b) >= 2, f"paired scores of two seeds or more, found {len(a)} and {len(b)}"
    first, second = np.asarray(a, float), np.asarray(b, float)
    apart, n = first - second, len(a)
    pooled = np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    draws = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    low, high = np.quantile(apart[draws].mean(1), [0.025, 0.975])
    mean, error = apart.mean(), apart.std(ddof=1) / np.sqrt(n)
    p = 2 * student.sf(abs(mean) / error, n - 1) if error > 0 else float(mean == 0)
    sign = max((apart > 0).mean(), (apart < 0).mean())
    return Difference(float(mean), float(2 * pooled * np.sqrt(2 / n)), (float(low), float(high)), float(sign), float(p))


def claims(
    ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]], primary: Mapping[str, float] = PRIMARY
) -> dict[str, int]:
    """Metric -> 1 for a win of ours, -1 for a loss, 0 where neither may be claimed."""
    found = {metric: difference(ours[metric], theirs[metric]) for metric in primary}
    kept = holm({metric: d.p for metric, d in found.items()})
    return {m: int(np.sign(d.mean)) if m in kept and d.holds(primary[m]) else 0 for m, d in found.items()}


def holm(p: Mapping[str, float], level: float = 0.05) -> set[str]:
    """Tests that stay significant together: the i-th smallest of m p-values is compared with level / (m - i)."""
    kept: set[str] = set()
    for i, name in enumerate(sorted(p, key=p.__getitem__)):
        if p[name] > level / (len(p) - i):
            break
        kept.add(name)
    return kept
