"""``monoscope db``: a workspace is upgraded, copied and moved, and arrives whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Call
from databases import new_database
from sqlalchemy import Connection, Table, func, select

from monoscope.features.workspace import Workspace, move
from monoscope.features.workspace.connect import connect
from monoscope.features.workspace.connect import workspace_url as address
from monoscope.features.workspace.job_records import JobDraft
from monoscope.features.workspace.records import ExplanationDraft, FeatureRef, ListDraft, ScoreDraft
from monoscope.features.workspace.table_base import Base

FP = "ab" * 32
Rows = dict[str, list[tuple[object, ...]]]


def fill(where: str) -> str:
    """Something of everything, deleted rows included; returns the workspace's number."""
    with Workspace.open(where, author="ada") as workspace:
        label = workspace.labels.write(FP, 1, "שלום 🙂 \x01")
        for feature in range(2, 1500):
            if feature % 300 == 0:
                workspace.labels.write(FP, feature, f"feature {feature}")
        draft = ExplanationDraft(dictionary_fp=FP, feature=1, text="x", method="m")
        explanation = workspace.explanations.create(draft)
        workspace.scores.create(ScoreDraft(explanation_id=explanation.id, scorer="s", value=0.1 + 0.2))
        made = workspace.lists.create(ListDraft(name="n"))
        workspace.items.add(made.id, [FeatureRef(dictionary_fp=FP, feature=i) for i in range(1200)])
        workspace.jobs.enqueue(JobDraft(kind="x", config={"nested": [1, None, {"a": "\0"}]}))
        workspace.labels.delete(label.id)
        return workspace.install_id


def rows(where: str) -> Rows:
    engine = connect(address(where))
    with engine.connect() as connection:
        found = {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]
            for table in Base.metadata.sorted_tables
        }
    engine.dispose()
    return found


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Addresses of new places of the other kind."""
    if request.node.callspec.params["workspace_url"] == "sqlite":
        return lambda: new_database(request.getfixturevalue("postgres"))
    return lambda: str(tmp_path / "moved.db")


def test_a_workspace_moves_whole_from_either_kind_to_the_other(
    call: Call, workspace_url: str, elsewhere: Callable[[], str]
) -> None:
    number, target = fill(workspace_url), elsewhere()
    before = rows(workspace_url)
    done = call("db", "move", workspace_url, target, "--json")
    assert done.code == 0, done.err
    assert done.result["rows"] == {name: len(found) for name, found in before.items() if found}
    assert rows(target) == before == rows(workspace_url)
    with Workspace.open(target) as moved:
        assert moved.install_id == number
        assert moved.labels.best(FP, 300).text == "feature 300"
        moved.labels.write(FP, 1, "goes on")
        assert moved.jobs.claim() is not None
    again = call("db", "move", workspace_url, target)
    assert again.code == 1
    assert "there is a workspace at" in again.err


def test_a_copy_that_differs_is_no_copy(
    call: Call, workspace_url: str, elsewhere: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(workspace_url)
    target, chunks = elsewhere(), move._chunks

    def forgetful(connection: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
        for chunk in chunks(connection, table):
            here = address(workspace_url).drivername == connection.engine.url.drivername
            yield chunk[1:] if here and table.name == "list_items" else chunk

    monkeypatch.setattr(move, "_chunks", forgetful)
    monkeypatch.setattr(move, "_digest", lambda c, table: str(c.execute(select(func.count()).select_from(table)).one()))
    done = call("db", "move", workspace_url, target)
    monkeypatch.undo()
    assert done.code == 1
    assert "differs from the original; nothing was written" in done.err
    assert not any(rows(target).values())
    assert call("db", "move", workspace_url, target).code == 0


def test_a_backup_is_one_file_that_opens(call: Call, workspace_url: str, tmp_path: Path) -> None:
    fill(workspace_url)
    copy = tmp_path / "copies" / "copy.db"
    with Workspace.open(workspace_url) as open_meanwhile:
        done = call("db", "backup", workspace_url, "--out", copy, "--json")
        assert done.code == 0, done.err
        open_meanwhile.labels.write(FP, 7, "later")
    assert done.result["bytes"] == copy.stat().st_size
    assert [entry.name for entry in copy.parent.iterdir()] == ["copy.db"]
    found = rows(workspace_url)
    found["labels"].pop()
    found["dictionaries"] = rows(str(copy))["dictionaries"]
    assert rows(str(copy)) == found
    assert call("db", "backup", workspace_url, "--out", copy).code == 1
    assert call("db", "backup", workspace_url, "--out", copy, "--force").code == 0
    assert len(rows(str(copy))["labels"]) == len(found["labels"]) + 1


def test_upgrade_makes_and_keeps(call: Call, workspace_url: str) -> None:
    Workspace.open(workspace_url).close()
    done = call("db", "upgrade", workspace_url, "--json")
    assert (done.result["before"], done.result["after"]) == ("0001", "0001")


def test_what_is_not_there_is_said(call: Call, tmp_path: Path) -> None:
    for verb in (["upgrade", "w.db"], ["backup", "w.db", "--out", "x.db"], ["move", "w.db", "x.db"]):
        done = call("db", *verb)
        assert (done.code, done.err) == (1, f"error: there is no workspace at {tmp_path / 'w.db'}\n")
    assert list(tmp_path.iterdir()) == []
    Workspace.open(tmp_path / "w.db").close()
    assert "onto itself" in call("db", "move", "w.db", "./w.db").err
    secret = call("db", "upgrade", f"postgresql+psycopg://u:pass@/n?host={tmp_path}")
    assert secret.code == 1
    assert "pass" not in secret.err
