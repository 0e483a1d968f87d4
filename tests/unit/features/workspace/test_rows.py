"""Rows of a workspace: made, changed, deleted, brought back; what belongs to somebody else stays whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError
from sqlalchemy import update

from monoscope.core.errors import ConfigError, DataError
from monoscope.features.workspace import ConflictError, MissingError, Workspace
from monoscope.features.workspace.records import (
    BundleDraft,
    FilterDraft,
    GraphDraft,
    LabelDraft,
    LinkDraft,
    ListDraft,
    NoteDraft,
    RunDraft,
    SettingDraft,
    SubgraphDraft,
    TagDraft,
    feature_target,
)
from monoscope.features.workspace.tables import LinkRow, ListRow
from monoscope.features.workspace.ulid import LENGTH, ulid

FP = "ab" * 32


def test_ids_sort_by_the_time_they_were_made() -> None:
    ids = [ulid() for _ in range(2000)]
    assert ids == sorted(set(ids))
    assert {len(id) for id in ids} == {LENGTH}


def test_what_is_written_is_read_again(workspace: Workspace) -> None:
    made = workspace.notes.create(NoteDraft(target_kind="list", target_id="x", markdown="# שלום 🙂\n\x01"))
    assert workspace.notes.get(made.id) == made
    assert (made.version, made.author, made.markdown) == (1, "local", "# שלום 🙂\n\x01")
    assert made.created.tzinfo == UTC
    assert abs(datetime.now(UTC) - made.created) < timedelta(seconds=30)


def test_a_change_raises_the_version_and_leaves_what_was_there(workspace: Workspace) -> None:
    made = workspace.lists.create(ListDraft(name="one"))
    changed = workspace.by("ada").lists.update(made.id, etag=made.etag, name="two")
    assert (changed.name, changed.version, changed.author) == ("two", 2, "local")
    assert changed.updated >= made.updated
    (audit,) = workspace.audit(f"lists/{made.id}")
    assert (audit.actor, audit.action, audit.before["name"]) == ("ada", "update", "one")


def test_a_change_to_an_older_state_is_refused_with_the_current_row(workspace: Workspace) -> None:
    made = workspace.lists.create(ListDraft(name="one"))
    second = workspace.lists.update(made.id, etag=made.etag, name="two")
    with pytest.raises(ConflictError, match="was changed by local") as raised:
        workspace.lists.update(made.id, etag=made.etag, name="three")
    assert raised.value.current == second
    with pytest.raises(ConflictError):
        workspace.lists.delete(made.id, etag=made.etag)
    assert workspace.lists.get(made.id) == second
    assert len(workspace.audit()) == 1


def test_what_is_deleted_is_gone_and_can_come_back(workspace: Workspace) -> None:
    made = workspace.tags.create(TagDraft(name="code", color="#00ff00"))
    workspace.tags.delete(made.id)
    with pytest.raises(MissingError, match="it was deleted"):
        workspace.tags.get(made.id)
    assert workspace.tags.page() == []
    assert [row.id for row in workspace.tags.page(deleted=True)] == [made.id]
    assert workspace.tags.restore(made.id).name == "code"
    assert [row.id for row in workspace.tags.page()] == [made.id]
    assert [row.action for row in workspace.audit()] == ["restore", "delete"]


def test_another_takes_the_place_of_what_was_deleted(workspace: Workspace) -> None:
    first = workspace.tags.create(TagDraft(name="code"))
    workspace.tags.delete(first.id)
    second = workspace.tags.create(TagDraft(name="code"))
    with pytest.raises(ConflictError, match="taken the place"):
        workspace.tags.restore(first.id)
    other = workspace.tags.create(TagDraft(name="prose"))
    with pytest.raises(ConflictError, match="already has these values"):
        workspace.tags.update(other.id, name="code")
    assert workspace.tags.get(second.id) == second


def test_there_is_one_of_what_there_may_be_one_of(workspace: Workspace) -> None:
    first = workspace.labels.create(LabelDraft(dictionary_fp=FP, feature=1, text="one"))
    with pytest.raises(ConflictError) as raised:
        workspace.labels.create(LabelDraft(dictionary_fp=FP, feature=1, text="two"))
    assert raised.value.current == first
    assert workspace.by("ada").labels.create(LabelDraft(dictionary_fp=FP, feature=1, text="two")).author == "ada"


def test_put_makes_a_row_once_and_changes_it_then(workspace: Workspace) -> None:
    first = workspace.bundles.put(BundleDraft(path="/a.mono", fingerprint="f1", dictionary_fp=FP, alias="a"))
    assert workspace.bundles.put(BundleDraft(path="/a.mono", fingerprint="f1", dictionary_fp=FP)) == first
    second = workspace.bundles.put(BundleDraft(path="/a.mono", fingerprint="f2", dictionary_fp=FP))
    assert (second.id, second.fingerprint, second.alias) == (first.id, "f2", "a")
    run = workspace.runs.put(RunDraft(path="/run", last_step=3_000_000_000))
    assert workspace.runs.put(RunDraft(path="/run", state="done")).last_step == run.last_step
    workspace.settings.put(SettingDraft(key="theme", value={"is": "dark"}))
    workspace.settings.put(SettingDraft(key="theme", value={"is": "light"}))
    assert workspace.settings.all() == {"theme": {"is": "light"}}
    assert workspace.by("ada").settings.all() == {}


def test_pages_go_on_where_the_last_one_ended(workspace: Workspace) -> None:
    names = [f"list {i}" for i in range(5)]
    for name in names:
        workspace.lists.create(ListDraft(name=name))
    first = workspace.lists.page(limit=3)
    rest = workspace.lists.page(after=first[-1].id)
    assert [row.name for row in (*first, *rest)] == names
    assert workspace.lists.page(name="list 3") == [rest[0]]
    with pytest.raises(ConfigError, match="did you mean 'name'"):
        workspace.lists.page(nam="list 3")


def test_graphs_and_their_subgraphs_come_back_whole(workspace: Workspace) -> None:
    draft = GraphDraft(
        slug="g-1", model_id="m", prompt="p", path="/g.json", sha256="0" * 64, n_nodes=3, n_links=2,
        dictionary_fps=(FP,),
    )  # fmt: skip
    graph = workspace.graphs.create(draft)
    assert graph.dictionary_fps == (FP,)
    view = SubgraphDraft(
        graph_id=graph.id, name="s", pinned=("a", "b"), supernodes=(("x", "a"),), labels={"a": "A"},
        thresholds={"node": 0.8},
    )  # fmt: skip
    made = workspace.subgraphs.create(view)
    assert SubgraphDraft.model_validate(made.model_dump(include=set(SubgraphDraft.model_fields))) == view
    with pytest.raises(MissingError, match="not there"):
        workspace.subgraphs.create(view.model_copy(update={"graph_id": ulid()}))


def test_links_open_until_they_expire(workspace: Workspace) -> None:
    link = workspace.links.create(LinkDraft(state={"page": "search", "q": "\0"}))
    assert workspace.links.open(link.short) == link
    assert link.state == {"page": "search", "q": "\0"}
    past = datetime.now(UTC) - timedelta(seconds=1)
    old = workspace.links.create(LinkDraft(state={}, expires=past))
    with pytest.raises(MissingError, match="expired"):
        workspace.links.open(old.short)
    with pytest.raises(MissingError, match="no link 'nothing'"):
        workspace.links.open("nothing")
    with workspace.database.reading() as session:
        assert session.get_one(LinkRow, old.id).expires == past


@pytest.mark.parametrize("text", ["", "\0", "a\0b", "\ud800", "x" * 2001])
def test_text_that_no_database_holds_is_refused_before_it_gets_there(text: str) -> None:
    with pytest.raises(ValidationError):
        LabelDraft(dictionary_fp=FP, feature=1, text=text)


@pytest.mark.parametrize("state", [{"x": float("nan")}, {"x": "y" * 1_000_001}])
def test_json_is_finite_and_bounded(state: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FilterDraft(name="n", page="p", state=state)


def test_changes_are_checked_like_new_rows(workspace: Workspace) -> None:
    made = workspace.lists.create(ListDraft(name="one"))
    with pytest.raises(DataError, match="name of a list"):
        workspace.lists.update(made.id, name="")
    with pytest.raises(ConfigError, match="has no 'nmae'"):
        workspace.lists.update(made.id, nmae="x")
    note = workspace.notes.create(NoteDraft(target_kind="feature", target_id=feature_target(FP, 1), markdown=""))
    with pytest.raises(ConfigError, match="cannot change"):
        workspace.notes.update(note.id, target_id="y")
    with pytest.raises(MissingError, match="no list 'nothing'"):
        workspace.lists.get("nothing")
    assert workspace.lists.get(made.id) == made


def test_what_was_deleted_long_ago_is_removed_for_good(workspace: Workspace) -> None:
    old, recent, kept = (workspace.lists.create(ListDraft(name=name)) for name in ("old", "recent", "kept"))
    workspace.lists.delete(old.id)
    workspace.lists.delete(recent.id)
    with workspace.database.writing() as session:
        past = datetime.now(UTC) - timedelta(days=31)
        session.execute(update(ListRow).where(ListRow.id == old.id).values(deleted=past))
    assert workspace.purge() == 1
    with pytest.raises(MissingError, match="purged"):
        workspace.lists.restore(old.id)
    assert workspace.lists.restore(recent.id).name == "recent"
    assert workspace.lists.get(kept.id) == kept
