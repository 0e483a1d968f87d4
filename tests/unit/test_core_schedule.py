"""Schedules: what a setting is multiplied by, step by step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monoscope.core.config import Config
from monoscope.core.errors import ConfigError
from monoscope.core.schedule import Anneal, Schedule, Trapezoid, span_steps


def factors(schedule: Schedule, total_steps: int, tokens_per_step: int = 100) -> list[float]:
    return [schedule.factor(step, total_steps, tokens_per_step) for step in range(total_steps)]


def test_trapezoid_by_hand() -> None:
    assert factors(Trapezoid(warmup=0.2, decay=0.4), 10) == pytest.approx(
        [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    )


def test_integers_are_tokens() -> None:
    assert factors(Trapezoid(warmup=200, decay=0), 4) == [0.5, 1.0, 1.0, 1.0]
    assert factors(Trapezoid(warmup=1, decay=0), 3) == [1.0, 1.0, 1.0]


def test_floor_is_where_the_fall_ends() -> None:
    values = factors(Trapezoid(warmup=0, decay=1.0, floor=0.5), 10)
    assert values[0] == 1.0
    assert values[-1] == pytest.approx(0.55)


@given(
    warmup=st.floats(0, 1) | st.integers(0, 5000),
    decay=st.floats(0, 1) | st.integers(0, 5000),
    floor=st.floats(0, 1),
    total=st.integers(1, 60),
    per_step=st.integers(1, 500),
)
def test_trapezoid_stays_between_zero_and_one(
    warmup: float, decay: float, floor: float, total: int, per_step: int
) -> None:
    values = factors(Trapezoid(warmup=warmup, decay=decay, floor=floor), total, per_step)
    assert all(0 < value <= 1 for value in values)
    peak = values.index(max(values))
    assert values[: peak + 1] == sorted(values[: peak + 1])


def test_anneal_by_hand() -> None:
    assert factors(Anneal(start=4.0, over=0.5), 8) == pytest.approx([4.0, 3.25, 2.5, 1.75, 1.0, 1.0, 1.0, 1.0])
    assert factors(Anneal(start=0.0, over=0), 3) == [1.0, 1.0, 1.0]


def test_the_exponential_form_moves_first_and_rests_later() -> None:
    straight = factors(Anneal(start=0.0, over=1.0), 10)
    bent = factors(Anneal(start=0.0, over=1.0, rate=4.0), 10)
    assert all(b > s for s, b in zip(straight[1:], bent[1:], strict=True))


@given(
    start=st.floats(0, 100),
    over=st.floats(0, 1) | st.integers(0, 5000),
    rate=st.floats(0, 100),
    total=st.integers(1, 60),
)
def test_anneal_goes_one_way_and_arrives(start: float, over: float, rate: float, total: int) -> None:
    schedule = Anneal(start=start, over=over, rate=rate)
    values = [schedule.factor(step, total, 100) for step in range(total + 1)]
    ordered = sorted(values, reverse=start > 1)
    assert values == pytest.approx(ordered, abs=1e-9)
    assert span_steps(over, total * 100, 100) > total or values[-1] == pytest.approx(1.0)


@given(k=st.integers(0, 1000), total=st.integers(1, 1000), per_step=st.integers(1, 10_000))
def test_a_whole_number_of_steps_stays_whole(k: int, total: int, per_step: int) -> None:
    k = min(k, total)
    assert span_steps(k / total, total * per_step, per_step) == k
    assert span_steps(k * per_step, total * per_step, per_step) == k


def test_spans_round_up() -> None:
    assert span_steps(1, 1000, 100) == 1
    assert span_steps(101, 1000, 100) == 2
    assert span_steps(0.05, 1000, 100) == 1


class Holder(Config):
    schedule: Schedule


@pytest.mark.parametrize(
    "table",
    [
        {"kind": "trapezoid", "warmup": 1000, "decay": 0.1, "floor": 0.0},
        {"kind": "anneal", "start": 2.0, "over": 5, "rate": 0.0},
    ],
)
def test_tables_read_back(table: dict[str, object]) -> None:
    config = Holder.from_dict({"schedule": table})
    assert config.to_dict() == {"schedule": table}
    kept = config.to_dict()["schedule"]
    assert {name: type(value) for name, value in kept.items()} == {name: type(value) for name, value in table.items()}


@pytest.mark.parametrize("warmup", [-1, -0.5, 1.5, "a while"])
def test_spans_outside_the_run_are_refused(warmup: object) -> None:
    with pytest.raises(ConfigError, match="warmup"):
        Holder.from_dict({"schedule": {"kind": "trapezoid", "warmup": warmup}})
