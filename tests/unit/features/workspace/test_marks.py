"""Bookmarks, tags, lists and where a feature is used."""

from __future__ import annotations

import pytest

from monoscope.core.errors import DataError
from monoscope.features.workspace import ConflictError, MissingError, Workspace
from monoscope.features.workspace.records import FeatureRef, ListDraft, NoteDraft, feature_target

FP = "ab" * 32


def refs(*features: int) -> list[FeatureRef]:
    return [FeatureRef(dictionary_fp=FP, feature=feature) for feature in features]


def order(workspace: Workspace, list_id: str) -> list[int]:
    return [item.feature for item in workspace.items.of(list_id)]


def test_a_list_keeps_its_order_and_each_feature_once(workspace: Workspace) -> None:
    made = workspace.lists.create(ListDraft(name="x"))
    items = workspace.items.add(made.id, refs(5, 3, 4))
    again = workspace.items.add(made.id, refs(4, 9, 9, 5), note="later")
    assert [item.id for item in again[::3]] == [items[2].id, items[0].id]
    assert order(workspace, made.id) == [5, 3, 4, 9]
    workspace.items.move(again[1].id, items[0].id)
    assert order(workspace, made.id) == [9, 5, 3, 4]
    workspace.items.move(items[0].id, None)
    assert order(workspace, made.id) == [9, 3, 4, 5]
    workspace.items.delete(items[1].id)
    workspace.items.add(made.id, refs(3))
    assert order(workspace, made.id) == [9, 4, 5, 3]


def test_items_move_however_little_room_is_left(workspace: Workspace) -> None:
    made = workspace.lists.create(ListDraft(name="x"))
    a, b, c = workspace.items.add(made.id, refs(1, 2, 3))
    for _ in range(80):  # halves the room between a and its neighbor each time: 2^-80 is no more
        workspace.items.move(c.id, b.id)
        b, c = c, b
    workspace.items.move(a.id, None)
    moved = order(workspace, made.id)
    assert moved == [b.feature, c.feature, 1]


def test_a_move_that_cannot_be_meant_is_refused(workspace: Workspace) -> None:
    one, two = (workspace.lists.create(ListDraft(name=name)) for name in ("x", "y"))
    (a,), (b,) = workspace.items.add(one.id, refs(1)), workspace.items.add(two.id, refs(1))
    with pytest.raises(DataError, match="no other item of the same list"):
        workspace.items.move(a.id, b.id)
    with pytest.raises(DataError, match="no other item of the same list"):
        workspace.items.move(a.id, a.id)
    changed = workspace.items.update(a.id, note="n")
    with pytest.raises(ConflictError):
        workspace.items.move(a.id, None, etag=a.etag)
    assert workspace.items.of(one.id) == [changed]
    workspace.lists.delete(one.id)
    with pytest.raises(MissingError, match="it was deleted"):
        workspace.items.add(one.id, refs(2))


def test_tags_and_bookmarks_of_a_dictionary_are_read_at_once(workspace: Workspace) -> None:
    workspace.feature_tags.mark(FP, 1, "code")
    workspace.feature_tags.mark(FP, 1, "brackets")
    first = workspace.feature_tags.mark(FP, 2, "code")
    assert workspace.by("ada").feature_tags.mark(FP, 2, "code") == first
    assert workspace.feature_tags.all(FP) == {1: ("brackets", "code"), 2: ("code",)}
    workspace.feature_tags.delete(first.id)
    (tag,) = workspace.tags.page(name="brackets")
    workspace.tags.delete(tag.id)
    assert workspace.feature_tags.all(FP) == {1: ("code",)}
    bookmark = workspace.bookmarks.set(FP, 7)
    assert workspace.bookmarks.set(FP, 7) == bookmark
    workspace.by("ada").bookmarks.set(FP, 8)
    assert workspace.bookmarks.all(FP) == {7}
    workspace.bookmarks.delete(bookmark.id)
    assert workspace.bookmarks.all(FP) == frozenset()


def test_where_a_feature_is_used(workspace: Workspace) -> None:
    kept, deleted = (workspace.lists.create(ListDraft(name=name)) for name in ("kept", "deleted"))
    for made in (kept, deleted):
        workspace.items.add(made.id, refs(1))
    workspace.lists.delete(deleted.id)
    target = feature_target(FP, 1)
    note = workspace.notes.create(NoteDraft(target_kind="feature", target_id=target, markdown="*"))
    workspace.notes.create(NoteDraft(target_kind="list", target_id=target, markdown="of something else"))
    workspace.feature_tags.mark(FP, 1, "code")
    workspace.by("ada").bookmarks.set(FP, 1)
    uses = workspace.uses(FP, 1)
    assert [row.name for row in uses.lists] == ["kept"]
    assert (uses.notes, [tag.name for tag in uses.tags], uses.bookmarked) == ((note,), ["code"], False)
    assert workspace.by("ada").uses(FP, 1).bookmarked
    assert workspace.notes.counts("feature") == {target: 1}
    nothing = workspace.uses(FP, 2)
    assert (nothing.lists, nothing.notes, nothing.tags, nothing.bookmarked) == ((), (), (), False)
