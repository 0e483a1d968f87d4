from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from monoscope.demo.trigram import Trigram

V = 6


def stream(n: int, seed: int = 0) -> np.ndarray:
    """Tokens of a skewed second-order chain."""
    rng, out = np.random.default_rng(seed), [0, 1]
    for _ in range(n):
        out.append(int(rng.zipf(1.7) + out[-1] + 2 * out[-2]) % V)
    return np.array(out)


def by_hand(train: list[int]) -> dict[tuple[int, int, int], float]:
    """The definition, token by token."""
    tri = Counter(zip(train, train[1:], train[2:], strict=False))
    bi = Counter((v, w) for _, v, w in tri)
    uni = Counter((w,) for _, w in bi)

    def discount(counts: Counter, n: int) -> float:
        of = [sum(count == i for count in counts.values()) for i in range(1, 5)]
        if 0 in of:
            return 0.5
        y, i = of[0] / (of[0] + 2 * of[1]), min(n, 3)
        return min(max(i - (i + 1) * y * of[i] / of[i - 1], 0.0), i)

    def p(gram: tuple[int, ...]) -> float:
        if not gram:
            return 1 / V
        counts = {1: uni, 2: bi, 3: tri}[len(gram)]
        here = {other: n for other, n in counts.items() if other[:-1] == gram[:-1]}
        if not here:
            return p(gram[1:])
        kept = here[gram] - discount(counts, here[gram]) if gram in here else 0.0
        freed = sum(discount(counts, n) for n in here.values())
        return (kept + freed * p(gram[1:])) / sum(here.values())

    return {gram: p(gram) for gram in itertools.product(range(V), repeat=3)}


@pytest.mark.parametrize("n", [12, 60, 3000])
def test_probabilities_are_those_of_the_definition_and_add_up(n):
    train = stream(n)
    expected = by_hand(train.tolist())
    model = Trigram(train, V)
    found = {gram: float(np.exp(model.log_prob(np.array(gram))[0])) for gram in expected}
    assert found == pytest.approx(expected)
    for context in itertools.product(range(V), repeat=2):
        assert sum(found[*context, w] for w in range(V)) == pytest.approx(1)


def test_log_probabilities_are_of_every_token_but_the_first_two():
    train, held_out = stream(3000), stream(50, seed=1)
    model = Trigram(train, V)
    whole = model.log_prob(held_out)
    one_by_one = [model.log_prob(held_out[i : i + 3])[0] for i in range(len(held_out) - 2)]
    np.testing.assert_allclose(whole, one_by_one)
    assert -whole.mean() < np.log(V) - 0.1, "it has learned something"
