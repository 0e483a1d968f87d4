from __future__ import annotations

import math
import time
import tomllib

import pytest
import torch
from live_world import DEAD, SITE, events

from monoscope.dictionaries import load
from monoscope.features import FeatureBundle
from monoscope.interventions import Steering, ablate, clamp, steer
from monoscope.interventions.operators import Operator, operate

pytestmark = pytest.mark.slow  # a server and its worker process are started


PROMPT = "import os\n\ndef main("


@pytest.fixture(scope="module")
def topk(shelf_path):
    return load(shelf_path / "topk" / "dictionary")


@pytest.fixture(scope="module")
def prompt(lm):
    return torch.tensor([[lm.bos_token_id, *lm.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]]])


@pytest.fixture(scope="module")
def feature(lm, topk, prompt):
    """A feature that fires on the prompt."""
    return int(topk.encode(lm.read(prompt, [SITE])[SITE][:, 1:]).dense()[0].amax(0).argmax())


def run(client, *edits, **settings):
    """Events of a steered generation, by name."""
    edits = [{"dict": "topk", **edit} for edit in edits]
    body = {"text": PROMPT, "edits": edits, "max_tokens": 12, "guard": False} | settings
    found: dict[str, list] = {}
    with client.stream("POST", "/steer", json=body) as response:
        if response.status_code != 200:
            response.read()
            return {"problem": [response.json()]}
        assert response.headers["content-type"].startswith("text/event-stream")
        for name, data, _ in events(response):
            found.setdefault(name, []).append(data)
    return found


def tokens_of(found, arm: str) -> list[int]:
    assert [token["n"] for token in found[f"{arm}.token"]] == list(range(len(found[f"{arm}.token"])))
    return [token["id"] for token in found[f"{arm}.token"]]


def generated(lm, prompt, *edits, **settings) -> list[int]:
    with lm.edit(*edits):
        return lm.generate(prompt, max_new_tokens=12, **settings)[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("kind", ["clamp", "ablate", "add", "floor"])
def test_steered_text_is_what_generate_writes_under_the_same_edits(client, lm, topk, prompt, feature, kind):
    edit = {"feature": feature, "op": kind, "strength": 30.0}
    edits = {
        "clamp": (edit | {"unit": "raw"}, clamp(topk, feature, 30.0)),
        "ablate": (edit, ablate(topk, feature)),
        "add": (edit | {"unit": "raw"}, steer(topk, feature, 30.0)),  # rows have norm 1
        "floor": (edit | {"unit": "raw"}, operate(topk, [Operator(feature, "floor", 30.0)])),
    }
    asked, own = edits[kind]
    found = run(client, asked)
    assert tokens_of(found, "steered") == generated(lm, prompt, own)
    assert tokens_of(found, "baseline") == generated(lm, prompt)
    if kind != "ablate":
        assert tokens_of(found, "steered") != tokens_of(found, "baseline")


def test_sampling_is_that_of_generate_with_the_same_seed(client, lm, topk, prompt, feature):
    settings = {"temperature": 1.2, "seed": 7, "top_k": 50}
    found = run(client, {"feature": feature, "op": "clamp", "strength": 9.0, "unit": "raw"}, **settings)
    assert tokens_of(found, "steered") == generated(lm, prompt, clamp(topk, feature, 9.0), **settings)
    assert tokens_of(found, "baseline") == generated(lm, prompt, **settings)
    assert found["done"][0]["seed"] == 7
    again = run(client, {"feature": feature, "op": "clamp", "strength": 9.0, "unit": "raw"}, **settings)
    assert again["start"][0]["baseline_cached"]
    assert tokens_of(again, "baseline") == tokens_of(found, "baseline")


def test_texts_are_what_the_tokens_spell(client, lm, feature):
    found = run(client, {"feature": feature, "op": "add", "strength": 0.1})
    for arm in ("baseline", "steered"):
        text = lm.tokenizer.decode(tokens_of(found, arm))
        assert found["done"][0][arm] == text
        assert "".join(token["piece"] for token in found[f"{arm}.token"]) == text


def test_strength_0_changes_nothing(client, feature):
    found = run(
        client, {"feature": feature, "op": "add", "strength": 0.0}, {"feature": 3, "op": "scale", "strength": 1.0}
    )
    assert tokens_of(found, "steered") == tokens_of(found, "baseline")
    assert found["done"][0]["mean_kl"] == 0.0
    assert all(place["kl"] == 0 and not place["changed"] for trace in found["trace"] for place in trace["places"])


def test_strengths_count_in_norms_and_reference_activations(client, lm, topk, shelf_path, feature):
    bundle = FeatureBundle.open(shelf_path / "topk" / "features.mono")
    reference = float(bundle.column("p999_act")[feature])
    found = run(
        client,
        {"feature": feature, "op": "clamp", "strength": 0.5},
        {"feature": 7, "op": "add", "strength": 0.1},
        {"feature": 8, "op": "add", "strength": 0.2, "unit": "local"},
        {"feature": 9, "op": "scale", "strength": 2.0},
        max_tokens=2,
    )
    values = found["start"][0]["values"]
    assert values[0] == pytest.approx(0.5 * reference)
    assert values[2:] == [0.2, 2.0]
    tokens = torch.from_numpy(bundle.tokens()[:, :64].astype("int64"))
    norms = lm.read(tokens, [SITE])[SITE][:, 1:].norm(dim=-1)
    assert values[1] == pytest.approx(0.1 * float(norms.square().mean().sqrt()), rel=0.05)


def test_the_trace_measures_what_the_edit_does(client, lm, topk, prompt, feature):
    found = run(client, {"feature": feature, "op": "clamp", "strength": 25.0, "unit": "raw"}, max_tokens=3)
    tokens = torch.cat([prompt, torch.tensor([tokens_of(found, "steered")])], dim=1)
    base = lm.logits(tokens)[0].log_softmax(-1)
    clean = lm.read(tokens, [SITE])[SITE][0]
    with lm.edit(clamp(topk, feature, 25.0)):
        under = lm.logits(tokens)[0].log_softmax(-1)
        moved = lm.read(tokens, [SITE])[SITE][0]
    places = [place for trace in found["trace"] for place in trace["places"]]
    assert [place["position"] for place in places] == list(range(tokens.shape[1] - 1))
    kl = (under.exp() * (under - base)).sum(-1)
    relative = (moved - clean).norm(dim=-1) / clean.norm(dim=-1)
    for place in places:
        at = place["position"]
        assert place["kl"] == pytest.approx(float(kl[at]), abs=1e-4)
        assert place["changed"] == bool(under[at].argmax() != base[at].argmax())
        assert place["relative"]["2.resid_post"] == pytest.approx(float(relative[at]), abs=1e-4)
    best = places[-1]["likely"][0]
    assert best["id"] == int(under[-2].argmax())
    assert best["base"] == pytest.approx(float(base[-2, best["id"]].exp()), abs=1e-4)


def test_only_the_places_that_are_named_are_edited(client, prompt, feature):
    n = prompt.shape[1]
    edit = {"feature": feature, "op": "add", "strength": 0.5, "where": {"prompt": [-1], "generation": [1]}}
    found = run(client, edit, max_tokens=4)
    places = [place for trace in found["trace"] for place in trace["places"]]
    assert [place["position"] for place in places if place["relative"]["2.resid_post"] > 0] == [n - 1, n + 1]


def test_edits_of_one_dictionary_do_not_depend_on_their_order(client, feature):
    edits = [{"feature": feature, "op": "clamp", "strength": 2.0}, {"feature": 11, "op": "add", "strength": 0.4}]
    assert tokens_of(run(client, *edits), "steered") == tokens_of(run(client, *edits[::-1]), "steered")


def test_the_guard_measures_ordinary_text(client, lm, shelf_path, topk, feature):
    found = run(client, {"feature": feature, "op": "clamp", "strength": 40.0, "unit": "raw"}, guard=True)
    (guard,) = found["guard"]
    bundle = FeatureBundle.open(shelf_path / "topk" / "features.mono")
    assert guard["n_tokens"] > 100
    assert guard["perplexity_ratio"] > 1.10
    assert not guard["ok"]
    assert "times as perplexing" in guard["reasons"][0]
    idle = run(client, {"feature": feature, "op": "add", "strength": 0.0}, guard=True)["guard"][0]
    assert idle["perplexity_ratio"] == 1.0
    assert idle["logprob_drop"] == pytest.approx(0.0, abs=1e-6)
    assert len(bundle) == 512


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"feature": 512}, "features 0 to 511"),
        ({"feature": 1, "where": {"prompt": [999]}}, "the prompt has"),
        ({"feature": 1, "where": {"prompt": [], "generation": []}}, "no token is selected"),
    ],
)
def test_what_only_the_worker_can_see_is_an_event(client, edit, message):
    found = run(client, edit)
    assert message in found["error"][0]["detail"]
    assert found["error"][0]["status"] == 422
    assert "done" not in found


def test_a_feature_that_never_fired_has_no_reference(client):
    found = run(client, {"dict": "jump", "feature": DEAD, "op": "clamp", "strength": 1.0})
    assert "never fired" in found["error"][0]["detail"]
    assert "done" in run(client, {"dict": "jump", "feature": DEAD, "op": "add", "strength": 0.1})


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"max_tokens": 10**6}, 422),
        ({"temperature": -1}, 422),
        ({"edits": []}, 422),
        ({"edits": [{"dict": "topk", "feature": 1}] * 17}, 422),
        ({"edits": [{"dict": "gone", "feature": 1}]}, 404),
        ({"edits": [{"dict": "topk", "feature": 1, "op": "clamp", "unit": "norm"}]}, 422),
        ({"edits": [{"dict": "topk", "feature": 1, "op": "ablate", "unit": "raw"}]}, 422),
        ({"edits": [{"dict": "topk", "feature": 1, "strength": 1e9}]}, 422),
    ],
)
def test_requests_that_cannot_be_meant_are_refused(client, change, status):
    body = {"text": PROMPT, "edits": [{"dict": "topk", "feature": 1}]} | change
    answer = client.post("/steer", json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("strength", ["NaN", "Infinity", "-Infinity"])
def test_strengths_that_are_no_numbers_are_refused(client, strength):
    body = f'{{"text": "x", "edits": [{{"dict": "topk", "feature": 1, "strength": {strength}}}]}}'
    answer = client.post("/steer", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert math.isfinite(answer.json()["status"])


def test_room_for_the_continuation_is_part_of_the_limit(client):
    found = run(client, {"feature": 1}, text="word " * 120, max_tokens=200)
    assert "with 200 to be generated" in found["error"][0]["detail"]


def test_closing_the_connection_stops_the_generation(client):
    edits = [{"dict": "topk", "feature": 1, "op": "add", "strength": 0.1}]
    body = {"text": "import os", "edits": edits, "max_tokens": 240, "guard": False}
    with client.stream("POST", "/steer", json=body) as response:
        said = events(response)  # held: to let go of it closes the connection
        next(name for name, _, _ in said if name == "steered.token")
        assert client.state.live.n_streams == 1
    until = time.monotonic() + 10
    while client.state.live.n_streams or client.get("/worker").json()["doing"] is not None:
        assert time.monotonic() < until, "it went on"
        time.sleep(0.01)


def test_too_many_generations_at_once_are_refused(client, monkeypatch):
    monkeypatch.setattr(client.state.live, "n_streams", 8)
    answer = client.post("/steer", json={"text": "x", "edits": [{"dict": "topk", "feature": 1}]})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"


def test_the_spec_of_a_run_replays_its_tokens(client, lm, topk, feature):
    settings = {"temperature": 1.2, "seed": 7, "top_k": 50}
    found = run(client, {"feature": feature, "op": "clamp", "strength": 9.0, "unit": "raw"}, **settings)
    steering = Steering.from_dict(tomllib.loads(found["start"][0]["spec"]))
    again = steering.replay(lm, dict.fromkeys(found["start"][0]["dictionaries"], topk))[0]
    assert again.tolist()[len(steering.tokens) :] == tokens_of(found, "steered")
