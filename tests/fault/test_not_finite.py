"""NaN and infinity stop a run, or are left out by choice and counted; nothing is ever trained on them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import FAST, RECIPE, D, activations, assert_same, weights

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import NotFinite
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.harvest import ActivationSource, from_array
from monoscope.harvest.source import check_few_not_finite
from monoscope.training import train
from monoscope.training.log import METRICS, read_log

SITE = Site.parse("x:out")
BATCH, STEPS = FAST["batch_tokens"], FAST["tokens"] // FAST["batch_tokens"]


class Unchecked(ActivationSource):
    """Somebody's source, which hands out whatever it has: rows of an array in their order, without end."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.row = x, 0
        self.sites, self.widths, self.n_tokens = (SITE,), {SITE: x.shape[1]}, None

    @property
    def info(self) -> dict[str, Any]:
        return {"kind": "unchecked"}

    def __iter__(self) -> Iterator[ActivationBatch]:
        while self.row < len(self.x):
            rows = self.x[self.row : self.row + BATCH]
            self.row += BATCH
            yield ActivationBatch({SITE: rows})
        self.row = 0

    def state_dict(self) -> dict[str, Any]:
        return {"row": self.row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.row = state["row"]


def poisoned(*steps: int, value: float = math.nan) -> Unchecked:
    """A source with a bad number in the batches of some steps, counting from 1."""
    x = activations(FAST["tokens"])
    for step in steps:
        x[(step - 1) * BATCH + 5, 3] = value
        x[(step - 1) * BATCH + 9, 0] = value
    return Unchecked(x)


def is_finite(dictionary: Dictionary) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in weights(dictionary).values())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_bad_number_stops_the_run_and_step_site_and_rows_are_named(value: float) -> None:
    says = r"step 17: activations at x:out are NaN or infinite in row \[5\] and 1 more of the batch"
    with pytest.raises(NotFinite, match=says):
        train(RECIPE, poisoned(17, value=value), **FAST)


def test_steps_left_out_are_logged_and_counted_and_move_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = train(RECIPE, poisoned(17, 18, 40), out=tmp_path / "run", **FAST, on_nonfinite="skip")
    assert is_finite(done)
    rows = read_log(tmp_path / "run" / METRICS)
    assert [(row["step"], row["skipped"]) for row in rows if "skipped" in row] == [(17, 1), (18, 2), (40, 3)]
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said[0] == (
        "step 17: activations at x:out are NaN or infinite in row [5] and 1 more of the batch; left out, 1 so far"
    )
    assert len(said) == 3
    assert "fvu" in rows[-1]


@pytest.fixture
def short_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scales are estimated from the first batches, which are as they should be."""
    monkeypatch.setattr("monoscope.training.beginning.SCALE_TOKENS", 1000)


@pytest.mark.parametrize("function", ["topk", "batch_topk"])
def test_a_step_left_out_leaves_weights_thresholds_and_ages_as_they_were(function: str, short_beginning: None) -> None:
    """A last batch that is left out changes nothing, whatever made its loss infinite."""
    recipe = RECIPE | {"function": {"kind": function, "k": 4}}
    constant = FAST | {"schedules": {}, "on_nonfinite": "skip"}
    x = activations(FAST["tokens"])
    short = train(recipe, Unchecked(x), **(constant | {"tokens": FAST["tokens"] - BATCH, "dead_after": 1000}))
    x[-BATCH:] = 3e38  # finite, and their squares are not
    long = train(recipe, Unchecked(x), **(constant | {"dead_after": 1000}))
    assert_same(short, long)


def test_a_loss_without_end_stops_before_any_weight_moves(tmp_path: Path, short_beginning: None) -> None:
    x = activations(FAST["tokens"])
    x[16 * BATCH : 17 * BATCH] = 3e38
    with pytest.raises(NotFinite, match=r"step 17: the loss is NaN or infinite \(reconstruction "):
        train(RECIPE, Unchecked(x), out=tmp_path / "run", checkpoint_every=0, **FAST)
    again = train(
        RECIPE, Unchecked(x), out=tmp_path / "run", resume=True, checkpoint_every=0, on_nonfinite="skip", **FAST
    )
    assert is_finite(again)
    assert_same(train(RECIPE, Unchecked(x), on_nonfinite="skip", **FAST), again)


def test_many_steps_left_out_stop_the_run() -> None:
    with pytest.raises(NotFinite, match="step 21: .*; 11 steps were left out, which are too many"):
        train(RECIPE, poisoned(*range(11, 40)), **FAST, on_nonfinite="skip")


def test_a_site_that_one_dictionary_does_not_read_does_not_disturb_it() -> None:
    other = Site.parse("y:out")

    class Two(Unchecked):
        def __init__(self, x: torch.Tensor) -> None:
            super().__init__(x)
            self.sites, self.widths = (SITE, other), {SITE: D, other: D}

        def __iter__(self) -> Iterator[ActivationBatch]:
            for number, batch in enumerate(super().__iter__()):
                x = batch.activations[SITE]
                yield ActivationBatch({SITE: x, other: torch.full_like(x, math.nan) if number == 20 else x})

    alone = train(RECIPE, Unchecked(activations(FAST["tokens"])), **FAST)
    both = train(
        [RECIPE, RECIPE],
        Two(activations(FAST["tokens"])),
        reads=[["x:out"], ["y:out"]],
        **FAST,
        on_nonfinite="skip",
    )
    assert_same(alone, both[0])
    assert is_finite(both[1])


def test_rows_of_an_array_are_left_out_and_the_position_remembers_how_many() -> None:
    x = activations(400)
    x[7, 2], x[300, 0] = math.nan, math.inf
    with pytest.raises(NotFinite, match="row 7 of the array"):
        list(from_array(x, batch_tokens=100))
    source = from_array(x, batch_tokens=100, skip_not_finite=True)
    assert [batch.n_tokens for batch in source] == [99, 100, 100, 99]
    stopped = from_array(x, batch_tokens=100, skip_not_finite=True)
    for _, _batch in zip(range(2), stopped, strict=False):
        pass
    again = from_array(x, batch_tokens=100, skip_not_finite=True)
    again.load_state_dict(stopped.state_dict())
    for batches in (1, 2):
        iterator = iter(again)
        next(iterator)
        assert again.info["excluded"] == {"not_finite": batches}
    done = train(RECIPE, x, **FAST, on_nonfinite="skip")
    assert is_finite(done)


def test_few_is_a_hundredth() -> None:
    check_few_not_finite(100, 100)
    check_few_not_finite(2000, 200_000)
    with pytest.raises(NotFinite, match="2,001 of 200,000 tokens"):
        check_few_not_finite(2001, 200_000)
