"""The index: made once, kept up to date by what changed, shared by several servers, made anew when it is broken."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
from made_bundle import FP
from search_cases import Meaning, query, small

from monoscope.core.io import owned
from monoscope.core.progress import silent
from monoscope.features.search import Search, derived, lines
from monoscope.features.workspace import BusyError, Workspace
from monoscope.features.workspace.records import ExplanationDraft, ScoreDraft


def shown(index: Search, text: str) -> dict[int, str]:
    return {hit.feature: hit.snippet for hit in query(index, text, mode="prefix").hits if hit.why != "token"}


def test_a_changed_label_is_found_by_the_next_query(search: Search, workspace: Workspace) -> None:
    label = workspace.labels.of(FP, 3)[0]
    workspace.labels.update(label.id, text="closing braces")
    assert shown(search, "opening") == {}
    assert shown(search, "closing") == {3: "closing braces"}
    workspace.labels.delete(label.id)
    assert shown(search, "closing") == {}
    draft = ExplanationDraft(dictionary_fp=FP, feature=4, text="closing time", method="m")
    explanation = workspace.explanations.create(draft)
    assert shown(search, "closing") == {4: "closing time"}
    other = workspace.explanations.create(draft.model_copy(update={"text": "better"}))
    workspace.scores.create(ScoreDraft(explanation_id=other.id, scorer="s", value=0.9))
    assert query(search, "closing").hits[0].label == "better"
    workspace.explanations.delete(explanation.id)
    assert shown(search, "closing") == {}
    assert shown(search, "better") == {4: "better"}


def test_an_index_kept_up_to_date_is_one_made_anew(search: Search, workspace: Workspace, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(60):
        feature = int(rng.integers(6))
        if i % 7 == 3 and (its := workspace.labels.of(FP, feature)):
            workspace.labels.delete(its[0].id)
        else:
            workspace.by(f"author {i % 3}").labels.write(FP, feature, f"words {rng.integers(1000)}")
        if i % 10 == 0:
            search.index.lines.refresh(FP)
    search.index.lines.refresh(FP)
    fresh = Search(tmp_path / "fresh", workspace)
    fresh.add("small", small(tmp_path / "again.mono"))
    with silent():
        fresh.prepare()
    assert fresh.index.lines.texts(FP)[1] == search.index.lines.texts(FP)[1]
    connection = sqlite3.connect(search.index.lines.path)
    connection.execute("INSERT INTO lines (lines, rank) VALUES ('integrity-check', 1)")
    connection.close()
    fresh.close()


def test_many_changes_wait_for_prepare(search: Search, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monoscope.features.search.search.AT_ONCE", 1)
    for feature in (0, 1):
        workspace.labels.write(FP, feature, "hyperbole")
    assert shown(search, "hyperbole") == {}
    assert "not all indexed" in query(search, "hyperbole").notes[0]
    assert search.waiting() == ["small"]
    with silent():
        search.prepare()
    assert shown(search, "hyperbole") == {1: "hyperbole", 0: "hyperbole"}
    assert list(shown(search, "hyperbole")) in ([1, 0], [0, 1])


def test_with_too_many_hits_to_rank_what_fires_most_comes_first(
    search: Search, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for feature in range(6):
        workspace.labels.write(FP, feature, "same words" + " and more" * feature)
    ranked = search.index.lines.search([FP], '"same"', 6)[FP] if search.index.lines.refresh(FP) else []
    assert [match.feature for match in ranked] == [0, 1, 2, 3, 4, 5], "the shorter the line, the better"
    monkeypatch.setattr(lines, "RANKED", 5)
    dense = search.index.lines.search([FP], '"same"', 3)[FP]
    assert [match.feature for match in dense] == [3, 1, 0], "density 0.3, 0.2, 0.1"


def test_several_servers_share_one_index(tmp_path: Path) -> None:
    with Workspace.open(tmp_path / "w.db") as one, Workspace.open(tmp_path / "w.db") as two:
        bundle = small(tmp_path / "small.mono")
        servers = [Search(tmp_path / "search", workspace, Meaning()) for workspace in (one, two)]
        for server in servers:
            server.add("small", bundle)
        one.labels.write(FP, 1, "first")
        errors = []

        def prepare(server: Search) -> None:
            try:
                with silent():
                    server.prepare()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=prepare, args=(server,)) for server in servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        two.labels.write(FP, 2, "second")
        for server in servers:
            assert shown(server, "first") == {1: "first"}
            assert shown(server, "second") == {2: "second"}
            server.close()
        assert not [path for path in (tmp_path / "search").iterdir() if "partial" in path.name]


def test_while_another_process_indexes_a_search_answers_and_adds(
    search: Search, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "BUSY_MS", 1)
    monkeypatch.setattr(lines, "CHUNK", 1)
    other = Search(search.root, workspace, Meaning())
    for feature in range(3):
        workspace.labels.write(FP, feature, f"changed {feature}")
    with owned(search.index.lines.path.with_suffix(".building")):
        other.add("small", small(tmp_path / "again.mono"))
        with pytest.raises(BusyError, match="another process is indexing"):
            other.index.lines.refresh(FP)
        assert any("being indexed" in note for note in query(other, "opening").notes)
    with silent():
        other.prepare()
    assert set(shown(other, "changed")) == {0, 1, 2}
    assert shown(search, "opening") == {3: "opening (brackets)"}
    other.close()


def test_a_rebuild_that_was_cut_short_is_begun_again(
    search: Search, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "CHUNK", 1)
    for feature in range(4):
        workspace.labels.write(FP, feature, f"changed {feature}")
    insert, calls = search.index.lines._insert, []

    def stop_at_the_third(connection: sqlite3.Connection, rows: list[tuple[int, str, str]]) -> None:
        calls.append(rows)
        if len(calls) == 3:
            raise KeyboardInterrupt
        insert(connection, rows)

    monkeypatch.setattr(search.index.lines, "_insert", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt), silent():
        search.index.lines.refresh(FP)
    monkeypatch.undo()
    assert search.index.lines.behind(FP) is None
    with silent():
        search.prepare()
    assert [text for _, _, text in search.index.lines.texts(FP)[1]] == [f"changed {i}" for i in (3, 1, 0, 2)]


@pytest.mark.parametrize("broken", [b"nothing that SQLite knows, and longer than its header is" * 40, b""])
def test_a_broken_index_is_made_anew(tmp_path: Path, workspace: Workspace, broken: bytes) -> None:
    workspace.labels.write(FP, 1, "first")
    bundle = small(tmp_path / "small.mono")
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "lines.db").write_bytes(broken)
    made = Search(tmp_path / "search", workspace)
    made.add("small", bundle)
    with silent():
        made.prepare()
    assert shown(made, "first") == {1: "first"}
    made.close()


def test_an_index_of_another_release_is_made_anew(
    tmp_path: Path, workspace: Workspace, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    search.close()
    monkeypatch.setattr(lines, "VERSION", lines.VERSION + 1)
    monkeypatch.setattr(derived, "VERSION", derived.VERSION + 1)
    bundle = small(tmp_path / "again.mono")
    made = Search(tmp_path / "search", workspace)
    made.add("small", bundle)
    assert made.waiting() == ["small"]
    with silent():
        made.prepare()
    assert shown(made, "opening") == {3: "opening (brackets)"}
    made.close()


def test_what_is_derived_of_one_bundle_is_not_taken_for_anothers(tmp_path: Path, workspace: Workspace) -> None:
    root = tmp_path / "search"
    first, second = small(tmp_path / "a.mono"), small(tmp_path / "b.mono", fires={5: {0: 1.0}})
    with silent():
        derived.derive(root, first)
    assert derived.is_derived(root, first)
    assert not derived.is_derived(root, second)
    before = (derived.directory_of(root, first) / "manifest.json").stat().st_mtime_ns
    with silent():
        derived.derive(root, first)
    assert (derived.directory_of(root, first) / "manifest.json").stat().st_mtime_ns == before


def test_vectors_are_made_once_for_a_text(tmp_path: Path, workspace: Workspace) -> None:
    model, bundle = Meaning(), small(tmp_path / "small.mono")
    for feature in range(5):
        workspace.labels.write(FP, feature, "the same words" if feature < 4 else "others")
    made = Search(tmp_path / "search", workspace, model)
    made.add("small", bundle)
    with silent():
        made.prepare()
    assert sorted(model.seen) == ["others", "the same words"]
    assert len(query(made, "the same words", mode="semantic").hits) == 4
    workspace.labels.write(FP, 5, "others")
    assert {hit.feature for hit in query(made, "others", mode="semantic").hits} >= {4, 5}
    assert model.seen.count("others") == 2, "once as a label, once as a query"
    made.close()
    again = Search(tmp_path / "search", workspace, Meaning())
    again.add("small", bundle)
    assert again.waiting() == []
    again.close()


def test_a_vector_that_was_cut_short_is_not_read(tmp_path: Path, workspace: Workspace) -> None:
    workspace.labels.write(FP, 0, "a cat")
    made = Search(tmp_path / "search", workspace, Meaning())
    made.add("small", small(tmp_path / "small.mono"))
    with silent():
        made.prepare()
    assert made.index.meaning is not None
    with (made.index.meaning.path / "vectors.f32").open("ab") as file:
        file.write(b"\1\2\3")
    workspace.labels.write(FP, 1, "a dog")
    found = query(made, "a hound", mode="semantic").hits
    assert (found[0].feature, found[0].score) == (1, pytest.approx(1.0, abs=1e-4))
    made.close()


def test_a_bundle_with_more_text_than_is_searched_says_so(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derived, "MOST_TEXT", 10)
    made = Search(tmp_path / "search", workspace)
    made.add("small", small(tmp_path / "small.mono"))
    with silent():
        made.prepare()
    found = query(made, "cat", mode="token")
    assert [hit.why for hit in found.hits] == ["token"]
    assert "too many to be searched" in found.notes[0]
    made.close()
