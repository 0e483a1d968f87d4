from __future__ import annotations

import pytest
import torch
from live_world import SITE

from monoscope.dictionaries import load

pytestmark = pytest.mark.slow  # a server and its worker process are started


TEXT = "import os\nfor name in os.listdir('.'):\n    print(name)\n"


def acts_of(lm, path, text: str) -> torch.Tensor:
    """Activations of a text behind a beginning-of-sequence token, in this process."""
    ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([[lm.bos_token_id, *ids]])
    return load(path).encode(lm.read(tokens, [SITE])[SITE]).dense()[0]


@pytest.mark.parametrize("name", ["topk", "jump"])
def test_activations_are_those_of_the_dictionary(client, lm, shelf_path, name):
    expected = acts_of(lm, shelf_path / name / "dictionary", TEXT)
    answer = client.post("/activate", json={"dicts": [name], "text": TEXT, "top": 5}).raise_for_status().json()
    assert "".join(token["text"] for token in answer["tokens"]) == "<|endoftext|>" + TEXT
    assert answer["hidden"] == 1
    assert answer["per_token"][0] == []
    for position in range(1, len(expected)):
        hits = answer["per_token"][position]
        values, features = expected[position].abs().topk(5)
        assert [hit["value"] for hit in hits] == pytest.approx([v for v in values.tolist() if v], rel=1e-4)
        assert {hit["feature"] for hit in hits} <= set(expected[position].nonzero()[:, 0].tolist())
        assert len(hits) < 2 or hits[0]["feature"] == int(features[0])
    strongest = expected[1:].amax(0)
    whole = answer["whole"]
    assert [hit["value"] for hit in whole] == pytest.approx(strongest.topk(5).values.tolist(), rel=1e-4)
    for hit in whole:
        own = expected[1:, hit["feature"]]
        assert hit["position"] == 1 + int(own.argmax())
        assert hit["n_tokens"] == int((own != 0).sum())
        assert hit["mean"] == pytest.approx(float(own[own != 0].mean()), rel=1e-4)
    (heat,) = answer["heat"]
    assert heat["l0"] == (expected != 0).sum(1).tolist()
    assert heat["value"] == pytest.approx(expected.abs().amax(1).tolist(), rel=1e-4)
    assert heat["layer"] == 2


def test_several_dictionaries_are_ordered_by_the_share_of_each_feature_s_maximum(client):
    answer = client.post("/activate", json={"dicts": ["topk", "jump"], "text": TEXT}).json()
    assert [row["dict"] for row in answer["heat"]] == ["topk", "jump"]
    for hits in answer["per_token"]:
        known = [hit["relative"] for hit in hits if hit["relative"] is not None]
        assert known == sorted(known, reverse=True)
    assert {hit["dict"] for hits in answer["per_token"] for hit in hits} == {"topk", "jump"}


def test_features_that_fire_too_often_can_be_left_out(client):
    body = {"dicts": ["topk"], "text": TEXT, "top": 50}
    dense = client.post("/activate", json=body).json()
    rare = client.post("/activate", json=body | {"max_density": 0.02}).json()
    densities = [hit["density"] for hits in dense["per_token"] for hit in hits]
    assert max(densities) > 0.02
    kept = [hit for hits in rare["per_token"] for hit in hits]
    assert kept
    assert all(hit["density"] <= 0.02 for hit in kept)
    wanted = [hit for hits in dense["per_token"] for hit in hits if hit["density"] <= 0.02]
    assert [(hit["feature"], hit["value"]) for hit in kept] == [(hit["feature"], hit["value"]) for hit in wanted]
    before, after = dense["heat"][0], rare["heat"][0]
    assert all(x <= y for x, y in zip(after["value"], before["value"], strict=True))
    assert (after["l0"], after["error"]) == (before["l0"], before["error"])


def test_the_first_position_is_ranked_on_request(client):
    answer = client.post("/activate", json={"dicts": ["topk"], "text": TEXT, "hide_first": False}).json()
    assert answer["hidden"] == 0
    assert answer["per_token"][0]


@pytest.mark.parametrize("name", ["topk", "jump"])
def test_one_feature_on_a_text(client, lm, shelf_path, name):
    text = TEXT + name
    expected = acts_of(lm, shelf_path / name / "dictionary", text)
    feature = int(expected[1:].amax(0).argmax())
    body = {"dict": name, "feature": feature, "text": text}
    answer = client.post("/activate/feature", json=body).raise_for_status().json()
    assert answer["acts"] == pytest.approx(expected[:, feature].tolist(), rel=1e-4)
    assert answer["max_act"] == pytest.approx(client.get(f"/dictionaries/{name}/features/{feature}").json()["max_act"])


def test_two_texts_are_aligned_by_token(client, lm, shelf_path):
    a, b = "for i in range(10):", "for item in range(10):"
    answer = client.post("/activate/diff", json={"dict": "topk", "a": a, "b": b}).raise_for_status().json()
    rows = answer["aligned"]
    tokens_a, tokens_b = ([token["text"] for token in answer[side]] for side in ("tokens_a", "tokens_b"))
    assert [row["a"] for row in rows if row["a"] is not None] == list(range(len(tokens_a)))
    assert [row["b"] for row in rows if row["b"] is not None] == list(range(len(tokens_b)))
    same = [(tokens_a[row["a"]], tokens_b[row["b"]]) for row in rows if row["same"]]
    assert ("for", "for") in same
    assert all(x == y for x, y in same)
    left, right = (acts_of(lm, shelf_path / "topk" / "dictionary", text)[1:].amax(0) for text in (a, b))
    gap = (right - left).abs()
    found = [abs(hit["b"] - hit["a"]) for hit in answer["whole"]]
    assert found == pytest.approx(gap.topk(len(found)).values.tolist(), rel=1e-3)


def test_equal_texts_do_not_differ(client):
    answer = client.post("/activate/diff", json={"dict": "jump", "a": TEXT, "b": TEXT}).json()
    assert answer["whole"] == []
    assert all(row["same"] and row["features"] == [] for row in answer["aligned"])


def test_labels_stand_beside_features(client, monkeypatch):
    state = client.state
    monkeypatch.setattr(
        state.live, "_labels", lambda name, features: {feature: f"{name} {feature}" for feature in features}
    )
    hit = client.post("/activate", json={"dicts": ["topk"], "text": TEXT}).json()["whole"][0]
    assert hit["label"] == f"topk {hit['feature']}"


def problem(response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return response.json()["detail"]


def test_special_tokens_in_a_text_are_text(client):
    answer = client.post("/activate", json={"dicts": ["topk"], "text": "a <|endoftext|> b"}).json()
    assert [token["special"] for token in answer["tokens"]] == [True] + [False] * (len(answer["tokens"]) - 1)
    assert "".join(token["text"] for token in answer["tokens"][1:]) == "a <|endoftext|> b"


def test_parts_of_characters_show_their_bytes(client):
    answer = client.post("/activate", json={"dicts": ["topk"], "text": "🧬 \u202e \x00 é"}).json()
    assert any(token["text"].startswith("\\x") for token in answer["tokens"])
    assert answer["whole"]


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"text": "x" * 20_001}, 413, "20,001 characters"),
        ({"text": "word " * 3000}, 422, "bundled reads 256, so at most 256"),
        ({"text": ""}, 422, "the text is empty"),
        ({"text": None}, 422, "give either text or messages"),
        ({"messages": [{"role": "user", "content": "x"}]}, 422, "give either text or messages"),
        ({"dicts": ["nothing"]}, 404, "nothing"),
        ({"dicts": []}, 422, "dicts"),
        ({"dicts": ["../../etc"]}, 422, "dicts"),
        ({"top": 10**9}, 422, "top"),
        ({"max_density": 0}, 422, "max_density"),
        ({"colour": "red"}, 422, "colour"),
    ],
)
def test_what_cannot_be_meant_is_refused(client, change, status, message):
    body = {"dicts": ["topk"], "text": "x"} | change
    assert message in problem(client.post("/activate", json={k: v for k, v in body.items() if v is not None}), status)


def test_messages_need_a_chat_template(client):
    body = {"dicts": ["topk"], "messages": [{"role": "user", "content": "hello"}]}
    assert "bundled has no chat template" in problem(client.post("/activate", json=body), 422)


def test_half_a_surrogate_pair_is_refused(client):
    sent = client.post(
        "/activate", content=b'{"dicts": ["topk"], "text": "\\ud800"}', headers={"Content-Type": "application/json"}
    )
    assert "surrogate" in problem(sent, 400)


def test_a_feature_that_does_not_exist_is_refused(client):
    body = {"dict": "topk", "feature": 512, "text": "x"}
    assert "features 0 to 511" in problem(client.post("/activate/feature", json=body), 422)
    problem(client.post("/activate/feature", json=body | {"feature": -1}), 422)
