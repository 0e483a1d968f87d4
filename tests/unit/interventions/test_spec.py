from __future__ import annotations

import pytest
import torch

from monoscope.core.errors import ConfigError, MismatchError, UserError
from monoscope.interventions import Steering, steer
from monoscope.interventions.operators import Operator, operate
from monoscope.interventions.spec import Change
from monoscope.interventions.where import Where, where


@pytest.fixture
def steering(sae, tokens) -> Steering:
    own = sae.fingerprint()
    return Steering(
        model="tiny",
        tokens=tuple(tokens[0].tolist()),
        max_new_tokens=6,
        temperature=1.0,
        seed=3,
        changes=(
            Change(dictionary="a", fingerprint=own, feature=5, kind="distance", value=9.0),
            Change(
                dictionary="a", fingerprint=own, feature=2, kind="clamp", value=4.0, prompt=(-1,), generation=(0, 2)
            ),
        ),
    )


def test_a_file_is_read_back_and_replays_the_same_tokens(lm, sae, tokens, steering, tmp_path):
    path = tmp_path / "steering.toml"
    path.write_text(steering.to_toml(), encoding="utf-8")
    again = Steering.load(path)
    assert again == steering
    edits = steer(sae, 5, 9.0)
    edits += where(operate(sae, [Operator(2, "clamp", 4.0)]), Where((-1,), (0, 2)), tokens.shape[1])
    with lm.edit(*edits):
        expected = lm.generate(tokens[:1], max_new_tokens=6, temperature=1.0, seed=3)
    assert torch.equal(again.replay(lm, {"a": sae}), expected)
    assert not torch.equal(expected, lm.generate(tokens[:1], max_new_tokens=6, temperature=1.0, seed=3))


def test_other_weights_and_missing_dictionaries_are_refused(sae, steering):
    with pytest.raises(UserError, match="no dictionary 'a' is given; found b"):
        steering.edits({"b": sae})
    other = steering.changes[0].model_copy(update={"fingerprint": "0" * 64})
    with pytest.raises(MismatchError, match="other weights"):
        steering.model_copy(update={"changes": (other,)}).edits({"a": sae})


@pytest.mark.parametrize(
    "change",
    [{"kind": "nudge"}, {"value": float("nan")}, {"feature": -1}, {"prompt": "some"}, {"code": "import os"}],
)
def test_what_is_not_a_spec_is_refused(steering, change):
    table = steering.to_dict()
    table["changes"][0] |= change
    with pytest.raises(ConfigError):
        Steering.from_dict(table)
