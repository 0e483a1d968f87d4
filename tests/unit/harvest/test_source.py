from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monoscope.core.errors import DataError
from monoscope.harvest import ActivationSource, from_array, repeat, take
from monoscope.harvest.source import first_not_finite


def numbers(source: ActivationSource) -> list[list[int]]:
    return [batch.activations[source.sites[0]][:, 0].int().tolist() for batch in source]


def small(seed: int | None = None) -> ActivationSource:
    return from_array(torch.arange(5.0)[:, None], batch_tokens=2, seed=seed)


def test_repeat_reads_the_data_again_and_ends() -> None:
    source = repeat(small(), 2)
    assert numbers(source) == [[0, 1], [2, 3], [4]] * 2
    assert numbers(source) == [[0, 1], [2, 3], [4]] * 2
    assert source.n_tokens == 10
    assert source.info["epochs"] == 2


def test_repeat_goes_on_without_end() -> None:
    source = repeat(small())
    batches = iter(source)
    assert [next(batches).activations[source.sites[0]][0, 0].item() for _ in range(7)] == [0, 2, 4, 0, 2, 4, 0]
    assert source.n_tokens is None


def test_repeat_shuffles_each_pass_anew() -> None:
    passes = numbers(repeat(small(seed=0), 8))
    orders = [[*a, *b, *c] for a, b, c in zip(passes[::3], passes[1::3], passes[2::3], strict=True)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len(set(map(tuple, orders))) > 4


def test_repeating_nothing_is_an_error_and_no_endless_loop() -> None:
    class Empty(ActivationSource):
        sites, widths, n_tokens, info = (), {}, 0, {}  # type: ignore[assignment]

        def __iter__(self) -> object:
            return iter(())

        def state_dict(self) -> dict[str, object]:
            return {}

        def load_state_dict(self, state: object) -> None: ...

    with pytest.raises(DataError, match="nothing to repeat"):
        list(repeat(Empty()))


def test_take_stops_at_the_batch_that_reaches_the_tokens() -> None:
    source = take(repeat(small()), 6)
    assert numbers(source) == [[0, 1], [2, 3], [4], [0, 1]]
    assert numbers(source) == [[0, 1], [2, 3], [4], [0, 1]]
    assert source.info["take"] == 6


def test_take_reads_no_further() -> None:
    inner = small()
    batches = iter(take(inner, 3))
    next(batches), next(batches)
    assert inner.state_dict()["row"] == 4
    assert next(batches, None) is None
    assert inner.state_dict()["row"] == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_found_where_it_counts(value: float) -> None:
    x = torch.zeros(2, 3, 4)
    assert first_not_finite(x) is None
    x[1, 2, 3] = value
    assert first_not_finite(x) == [1, 2]
    counts: Tensor = torch.ones(2, 3, dtype=torch.bool)
    counts[1, 2] = False
    assert first_not_finite(x, counts) is None


def test_large_values_whose_sum_overflows_are_finite() -> None:
    assert first_not_finite(torch.full((4, 4), 3e38)) is None
