"""A feature over the wire is the feature of the bundle; a bundle that is broken is a card that says why."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from served import HOSTILE, N_FEATURES, TOKEN, hostile_bundle
from small_autoencoder import autoencoder

from monoscope.dictionaries import load
from monoscope.dictionaries.saved import save
from monoscope.features import FeatureBundle
from monoscope.features.schema import EXPLANATIONS
from monoscope.server import Server
from monoscope.server.library.slugs import slug, title
from monoscope.server.library.weights import fingerprint_weights

ONE = "/dictionaries/some-run/features/7"


def test_the_library_has_a_card(client: httpx.Client, bundle: FeatureBundle) -> None:
    library = client.get("/library").json()
    (card,) = library["dictionaries"]
    assert (card["id"], card["n_features"], card["layer"]) == ("some-run", N_FEATURES, 1)
    assert card["fingerprint"] == bundle.manifest["fingerprint"]
    assert card["bytes"] == sum(file["bytes"] for file in bundle.manifest["files"])
    assert not card["live"]
    assert library["storage"]["free"] > 0
    assert library["broken"] == []
    assert client.get("/dictionaries").json() == [card]


def test_a_dictionary_has_its_aggregates(client: httpx.Client, bundle: FeatureBundle) -> None:
    found = client.get("/dictionaries/some-run").json()
    assert found["manifest"] == bundle.manifest
    assert found["n_dead"] == 10
    assert sum(found["density_histogram"]["counts"]) == N_FEATURES - 10
    assert sum(found["norm_histogram"]["counts"]) == N_FEATURES
    assert len(found["density_histogram"]["edges"]) == len(found["density_histogram"]["counts"]) + 1
    dead = set(range(290, 300))
    assert not dead & set(found["interesting"])
    assert len(set(found["interesting"])) == len(found["interesting"])


def test_a_feature_is_the_bundle_s(client: httpx.Client, bundle: FeatureBundle) -> None:
    found, stored = client.get(ONE).json(), bundle.feature(7)
    for name in ("n_fired", "density", "max_act", "mean_act", "is_dead", "dec_norm", "enc_dec_cos"):
        assert found[name] == pytest.approx(getattr(stored, name), rel=1e-5)
    assert found["act_histogram"]["counts"] == stored.acts.counts.tolist()
    assert [band["interval"] for band in found["bands"]] == [1, 2, 3, 4, 5]
    assert [token["text"] for token in found["tokens"]] == [token.text for token in stored.tokens]
    assert (found["signed"], found["sites"], found["label"]) == (False, None, None)
    assert len(json.dumps(found)) < 60_000


def test_contexts_are_the_bundle_s(client: httpx.Client, bundle: FeatureBundle) -> None:
    found, stored = client.get(f"{ONE}/contexts").json(), bundle.feature(7)
    groups = {group["interval"]: group for group in found["groups"]}
    assert list(groups) == sorted(groups, key=lambda i: (i < 0, abs(i)))
    assert {context.interval for context in stored.contexts} == set(groups)
    for number, group in groups.items():
        for shown, context in zip(group["contexts"], stored.interval(number), strict=True):
            assert [found["strings"][i] for i in shown["tokens"]] == list(context.tokens)
            acts = np.zeros(len(context.tokens), np.float32)
            acts[shown["pos"]] = shown["val"]
            np.testing.assert_allclose(acts, context.acts, rtol=1e-5)
            assert (shown["start"], shown["stop"], shown["peak"]) == (context.start, context.stop, context.peak)
    assert groups[-2]["contexts"][0]["pos"] == []
    bands = {band.number: band for band in stored.intervals}
    shares = {number: group["share"] for number, group in groups.items() if number > 0}
    assert shares == {number: pytest.approx(bands[number].share, rel=1e-5) for number in shares}
    assert groups[0]["share"] is None
    assert len(set(found["strings"])) == len(found["strings"])


def test_contexts_are_cut_and_counted(client: httpx.Client) -> None:
    found = client.get(f"{ONE}/contexts", params={"window": 5, "limit": 2, "interval": 0}).json()
    (group,) = found["groups"]
    assert len(group["contexts"]) == 2
    for context in group["contexts"]:
        assert len(context["tokens"]) == context["stop"] - context["start"] == 5
        assert context["val"][context["pos"].index(context["peak"])] == pytest.approx(context["max_act"], rel=1e-3)
    answer = client.get(f"{ONE}/contexts", params={"interval": 77})
    assert answer.json()["groups"] == []
    again = client.get(f"{ONE}/contexts", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_neighbors_are_the_bundle_s_and_those_of_another(client: httpx.Client, bundle: FeatureBundle) -> None:
    stored = bundle.feature(7)
    found = client.get(f"{ONE}/neighbors").json()
    assert [n["feature"] for n in found["features"]] == [n.feature for n in stored.decoder_neighbors]
    together = client.get(f"{ONE}/neighbors", params={"by": "coactivation"}).json()
    assert together["measure"] == "pmi"
    same = client.get(f"{ONE}/neighbors", params={"by": "other:some-run"}).json()
    assert (same["features"][0]["feature"], round(same["features"][0]["value"], 2)) == (7, 1.0)
    assert [n["feature"] for n in same["features"][1:6]] == [n.feature for n in stored.decoder_neighbors[:5]]
    assert client.get(f"{ONE}/neighbors", params={"by": "other:nope"}).status_code == 404
    assert client.get(f"{ONE}/neighbors", params={"by": "other:../x"}).status_code == 422
    assert client.get(f"{ONE}/neighbors", params={"by": "magic"}).status_code == 422


def test_features_that_are_not_there(client: httpx.Client) -> None:
    for index, status in ((300, 404), (2**31 - 1, 404), (2**31, 422), (-1, 422), ("x", 422), (10**400, 422)):
        for part in ("", "/contexts", "/neighbors", "/uses"):
            answer = client.get(f"/dictionaries/some-run/features/{index}{part}")
            assert answer.status_code == status, (index, part)
            assert len(answer.content) < 2000
    assert client.get("/dictionaries/nope/features/0").status_code == 404


def test_hostile_texts_arrive_as_they_are(client: httpx.Client) -> None:
    strings = set()
    for index in range(20):
        strings |= set(client.get(f"/dictionaries/some-run/features/{index}/contexts").json()["strings"])
    assert set(HOSTILE) <= strings


def test_files_come_whole_and_in_ranges(client: httpx.Client, bundle: FeatureBundle) -> None:
    data = (bundle.path / "features.parquet").read_bytes()
    whole = client.get("/files/some-run/features.parquet")
    assert (whole.status_code, whole.content) == (200, data)
    part = client.get("/files/some-run/features.parquet", headers={"Range": "bytes=4-11"})
    assert (part.status_code, part.content) == (206, data[4:12])
    assert part.headers["content-range"] == f"bytes 4-11/{len(data)}"
    end = client.get("/files/some-run/features.parquet", headers={"Range": "bytes=-4"})
    assert end.content == b"PAR1"
    beyond = client.get("/files/some-run/features.parquet", headers={"Range": f"bytes={len(data)}-"})
    assert beyond.status_code == 416
    head = client.head("/files/some-run/contexts/00000.parquet")
    assert int(head.headers["content-length"]) == (bundle.path / "contexts/00000.parquet").stat().st_size
    again = client.get("/files/some-run/features.parquet", headers={"If-None-Match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/files/some-run/manifest.json").json() == bundle.manifest


def break_manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def breaks(path: Path) -> None:
        manifest = json.loads((path / "manifest.json").read_text())
        change(manifest)
        (path / "manifest.json").write_text(json.dumps(manifest))

    return breaks


BREAKS: dict[str, Callable[[Path], Any]] = {
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "not json": lambda path: (path / "manifest.json").write_text("{"),
    "deep": lambda path: (path / "manifest.json").write_text("[" * 100_000),
    "a list": lambda path: (path / "manifest.json").write_text("[]"),
    "another schema": break_manifest(lambda m: m.update(schema="x")),
    "newer": break_manifest(lambda m: m.update(schema_version=99)),
    "no files": break_manifest(lambda m: m.pop("files")),
    "files of another type": break_manifest(lambda m: m.update(files=5)),
    "dictionary of another type": break_manifest(lambda m: m.update(dictionary=[])),
    "no features": break_manifest(lambda m: m["dictionary"].pop("n_features")),
    "a model of another type": break_manifest(lambda m: m.update(model="x")),
    "a file outside": break_manifest(lambda m: m["files"].append({"path": "../../outside.txt", "bytes": 7})),
    "a missing file": lambda path: (path / "details.parquet").unlink(),
    "a file cut short": lambda path: (path / "vocab.parquet").write_bytes(b"PAR1"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_bundle_is_a_card_that_says_why(
    name: str, bundle: FeatureBundle, tmp_path: Path, start: Callable[..., Server]
) -> None:
    (tmp_path / "outside.txt").write_text("outside")
    broken = tmp_path / "served" / "broken.mono"
    shutil.copytree(bundle.path, broken)
    shutil.copytree(bundle.path, tmp_path / "served" / "whole.mono")
    BREAKS[name](broken)
    server = start(tmp_path / "served")
    with httpx.Client(
        base_url=f"{server.address}/api/v1", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
    ) as client:
        library = client.get("/library").json()
        assert [card["id"] for card in library["dictionaries"]] == ["whole"]
        (fault,) = library["broken"]
        assert (fault["id"], fault["kind"]) == ("broken", "bundle")
        assert str(broken) in fault["problem"] or "outside" in fault["problem"]
        for address in ("", "/features", "/features/3", "/features/3/contexts"):
            answer = client.get(f"/dictionaries/broken{address}")
            assert (answer.status_code, answer.json()["detail"]) == (409, fault["problem"])
        assert client.get("/dictionaries/whole/features/3").status_code == 200


@pytest.mark.parametrize(
    "file", ["features.parquet", "details.parquet", "contexts/00000.parquet", "sequences.safetensors"]
)
def test_bytes_that_changed_are_a_problem_and_no_defect(
    file: str, bundle: FeatureBundle, tmp_path: Path, start: Callable[..., Server]
) -> None:
    copy = tmp_path / "copy.mono"
    shutil.copytree(bundle.path, copy)
    size = (copy / file).stat().st_size
    (copy / file).write_bytes(b"x" * size)
    server = start(copy)
    with httpx.Client(
        base_url=f"{server.address}/api/v1", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
    ) as client:
        statuses = {
            client.get(f"/dictionaries/copy/{part}").status_code
            for part in ("features", "features/3/contexts", "features/3")
        }
        assert 409 in statuses
        assert statuses <= {200, 409}
        assert client.get("/library").status_code == 200


def test_a_mended_bundle_and_a_new_one_are_opened(
    bundle: FeatureBundle, tmp_path: Path, start: Callable[..., Server]
) -> None:
    served = tmp_path / "served"
    shutil.copytree(bundle.path, served / "a.mono")
    manifest = (served / "a.mono" / "manifest.json").read_text()
    (served / "a.mono" / "manifest.json").write_text("")
    server = start(served)
    (served / "a.mono" / "manifest.json").write_text(manifest)
    shutil.copytree(bundle.path, served / "deep" / "b.mono")
    with httpx.Client(
        base_url=f"{server.address}/api/v1", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
    ) as client:
        opened = client.post("/library", json={"path": str(served)}).json()
        assert [card["id"] for card in opened["dictionaries"]] == ["a", "b"]
        assert opened["broken"] == []
        library = client.get("/library").json()
        assert [card["id"] for card in library["dictionaries"]] == ["a", "b"]
        assert library["broken"] == []
        assert client.post("/library", json={"path": "deep/b.mono"}).json()["dictionaries"][0]["id"] == "b"


def in_the_cache(hub: Path, repo: str, bundle: Path, name: str) -> Path:
    """A bundle as the hub's own library leaves it: links to files named by their content."""
    root, commit = hub / f"models--{repo.replace('/', '--')}", "0f" * 20
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    for i, file in enumerate(path for path in sorted(bundle.rglob("*")) if path.is_file()):
        shutil.copy(file, root / "blobs" / f"{i:040x}")
        link = root / "snapshots" / commit / name / file.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(root / "blobs" / f"{i:040x}", link.parent))
    return root


def test_what_was_downloaded_from_the_hub_is_opened_and_nothing_else_is(
    bundle: FeatureBundle, tmp_path: Path, start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    root = in_the_cache(tmp_path / "hub", "ada/dictionary", bundle.path, "l2/features.mono")
    (tmp_path / "served").mkdir()
    server = start(tmp_path / "served")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=f"{server.address}/api/v1", headers=headers, trust_env=False) as client:

        def opened(ref: str) -> httpx.Response:
            return client.post("/library", json={"path": ref})

        (card,) = opened("hf://ada/dictionary/l2").json()["dictionaries"]
        assert card["n_features"] == len(bundle)
        again = opened(f"hf://ada/dictionary/l2/features.mono@{'0f' * 20}").json()
        assert [other["id"] for other in again["dictionaries"]] == [card["id"]]
        assert client.get(f"/dictionaries/{card['id']}/features", params={"sort": "-density"}).status_code == 200
        assert client.get(f"/dictionaries/{card['id']}/features/0/contexts").status_code == 200
        missing = opened("hf://ada/other/l2@v1")
        assert missing.status_code == 422
        assert "hf download ada/other --include 'l2/*' --revision v1" in missing.json()["detail"]
        (root / "snapshots" / ("0f" * 20) / "out").symlink_to(bundle.path.parent)
        for ref in (
            "hf://ada/dictionary/../../..",
            "hf://ada/dictionary@../../../..",
            "hf://ada/dictionary//etc",
            "hf://../etc",
            "hf://ada/dictionary/out",
            "hf://",
            "hf://ada/dictionary/l2\0",
        ):
            refused = opened(ref)
            assert refused.status_code == 422, ref
            assert not refused.json().get("dictionaries")


def test_a_dictionary_without_features_is_named(tmp_path: Path, start: Callable[..., Server]) -> None:
    (tmp_path / "served").mkdir()
    server = start(tmp_path / "served")
    save(autoencoder({"kind": "topk", "k": 2}).frozen(), tmp_path / "served" / "bare")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=f"{server.address}/api/v1", headers=headers, trust_env=False) as client:
        opened = client.post("/library", json={"path": "bare"}).json()
        assert opened["without_features"] == [str((tmp_path / "served" / "bare").resolve())]
        sample = client.get("/library").json()["sample"]
        assert sample == {"path": str((tmp_path / "workspace.sample").resolve()), "is_made": False}


def test_a_dictionary_and_its_bundle_find_each_other(tmp_path: Path, start: Callable[..., Server]) -> None:
    bundle = hostile_bundle(tmp_path / "features.mono")
    save(autoencoder({"kind": "topk", "k": 2}).frozen(), tmp_path / "dictionary")
    fingerprint = fingerprint_weights(tmp_path / "dictionary" / "weights.safetensors")
    assert fingerprint == load(tmp_path / "dictionary").fingerprint()
    break_manifest(lambda m: m["dictionary"].update(fingerprint=fingerprint))(bundle.path)
    break_manifest(lambda m: m["model"].update(id="bundled"))(bundle.path)
    rows = [{"step": i, "tokens": 10 * i, "fvu": 1 / (i + 1), "l0": 3} for i in range(1000)]
    text = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "dictionary" / "metrics.jsonl").write_text(text + '\n{"step": 10')
    server = start(tmp_path)
    assert server.state.library.matched.wait(10)
    (entry,) = server.state.library.entries
    assert server.state.library.is_live(entry)
    with httpx.Client(
        base_url=f"{server.address}/api/v1", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
    ) as client:
        library = client.get("/library").json()
        assert library["dictionaries"][0]["live"]
        (run,) = library["runs"]
        assert (run["state"], run["step"], run["tokens"]) == ("finished", 999, 9990)
        assert run["dictionaries"] == [entry.id]
        curves = client.get(f"/dictionaries/{entry.id}").json()["curves"]
        assert curves["series"]["fvu"][0] == 1.0
        assert len(curves["tokens"]) <= 400


def test_slugs_are_unique_and_speak() -> None:
    taken: list[str] = []
    for path in (
        "/r/a/features.mono",
        "/r/b/features.mono",
        "/r/a/x.mono",
        "/s/a/features.mono",
        "/r/Gemma 2 (9b)!.mono",
    ):
        taken.append(slug(Path(path), taken))
    assert taken == ["a", "b", "x", "s-a", "gemma-2-9b"]
    assert [title(Path(path)) for path in ("/r/a/features.mono", "/r/Gemma 2.mono", "/r/a/dictionary")] == [
        "a",
        "Gemma 2",
        "a",
    ]
    many: list[str] = []
    for _ in range(50):
        many.append(slug(Path("/q/same.mono"), many))
    assert len(set(many)) == 50
    assert slug(Path("/\u00fc/\u00fc.mono"), []) == "x"
    assert len(slug(Path(f"/{'a' * 300}.mono"), [])) <= 128


def test_descriptions_that_came_with_a_bundle_are_labels_until_somebody_writes_one(
    tmp_path: Path, start: Callable[..., Server]
) -> None:
    bundle = hostile_bundle(tmp_path / "told.mono")
    facts = {"method": "m", "judge": "j", "prompt_hash": "", "created": ""}
    rows = [
        {"feature": 3, "id": "a", "text": "worse", **facts, "scores": [("fuzz", 0.25)]},
        {"feature": 3, "id": "b", "text": "<i>better</i>", **facts, "scores": [("fuzz", 0.75)]},
        {"feature": 4, "id": "c", "text": "unscored", **facts, "scores": []},
    ]
    whole = [{**dict.fromkeys(EXPLANATIONS.names), **row} for row in rows]
    pq.write_table(pa.Table.from_pylist(whole, EXPLANATIONS), bundle.path / "explanations.parquet")
    server = start(bundle.path)
    with httpx.Client(
        base_url=f"{server.address}/api/v1", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
    ) as client:
        shown = client.get("/dictionaries/told/features/3").json()
        assert shown["label"] == {"text": "<i>better</i>", "source": "bundle", "author": "j", "score": 0.75}
        assert [one["id"] for one in shown["shipped"]] == ["b", "a"]
        labeled = {"filter": '[{"column": "label", "op": "not_null"}]', "sort": "-score"}
        page = client.get("/dictionaries/told/features", params=labeled).json()["columns"]
        assert (page["feature"], page["label"]) == ([3, 4], ["<i>better</i>", "unscored"])
        client.post("/labels", json={"dict": "told", "feature": 3, "text": "mine"})
        assert client.get("/dictionaries/told/features/3").json()["label"]["text"] == "mine"
        page = client.get("/dictionaries/told/features", params=labeled | {"sort": ""}).json()["columns"]
        assert page["label"] == ["mine", "unscored"]
