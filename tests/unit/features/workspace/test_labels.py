"""Labels: whose line is shown, and how a reader of 131k of them keeps up."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError

from monoscope.core.progress import silent
from monoscope.features.workspace import MissingError, Workspace
from monoscope.features.workspace.records import BestLabel, ExplanationDraft, LabelDraft, ScoreDraft
from monoscope.features.workspace.ulid import ulid

FP, OTHER = "ab" * 32, "cd" * 32


def explain(workspace: Workspace, text: str, *scores: float, feature: int = 1) -> str:
    draft = ExplanationDraft(dictionary_fp=FP, feature=feature, text=text, method="max_acts", judge="oracle")
    id = workspace.explanations.create(draft).id
    for i, value in enumerate(scores):
        workspace.scores.create(ScoreDraft(explanation_id=id, scorer=f"scorer {i}", value=value))
    return id


def test_the_line_shown_is_a_persons_choice_else_the_best_explanation(workspace: Workspace) -> None:
    def shown() -> tuple[str, str] | None:
        best = workspace.labels.best(FP, 1)
        assert workspace.labels.all(FP).get(1) == best
        return None if best is None else (best.text, best.source)

    assert shown() is None
    explain(workspace, "unscored")
    explain(workspace, "unscored, later")
    assert shown() == ("unscored, later", "explanation")
    explain(workspace, "below zero", -0.5)
    assert shown() == ("below zero", "explanation")
    good = explain(workspace, "good", 0.875, 0.625)
    explain(workspace, "poor", 0.2)
    assert shown() == ("good", "explanation")
    imported = LabelDraft(dictionary_fp=FP, feature=1, text="imported", source="imported")
    workspace.by("bob").labels.create(imported)
    assert shown() == ("imported", "imported")
    mine = workspace.labels.write(FP, 1, "mine")
    assert shown() == ("mine", "user")
    workspace.by("ada").labels.write(FP, 1, "ada's")
    assert shown() == ("ada's", "user")
    chosen = workspace.labels.choose(good)
    assert (chosen.id, chosen.source, chosen.explanation_id) == (mine.id, "explanation", good)
    assert workspace.labels.best(FP, 1) == BestLabel(1, "good", "explanation", "local", 0.75)
    own = workspace.labels.update(chosen.id, text="better than good")
    assert (own.source, own.explanation_id) == ("user", None)
    assert [label.author for label in workspace.labels.of(FP, 1)] == ["local", "ada", "bob"]
    workspace.labels.delete(mine.id)
    assert shown() == ("ada's", "user")


def test_an_explanations_score_is_the_mean_of_its_scorers_latest(workspace: Workspace) -> None:
    id = explain(workspace, "x", 0.5, 0.7)
    assert workspace.explanations.get(id).score == pytest.approx(0.6)
    again = workspace.scores.create(ScoreDraft(explanation_id=id, scorer="scorer 0", value=0.9, details={"n": 3}))
    assert workspace.explanations.get(id).score == pytest.approx(0.8)
    workspace.scores.update(again.id, value=0.1)
    assert workspace.explanations.get(id).score == pytest.approx(0.4)
    workspace.scores.delete(again.id)
    assert workspace.explanations.get(id).score == pytest.approx(0.6)
    assert len(workspace.scores.of(id)) == 2
    with pytest.raises(MissingError, match="no explanation"):
        workspace.scores.create(ScoreDraft(explanation_id=ulid(), scorer="s", value=1.0))
    explain(workspace, "better", 0.95)
    assert [row.text for row in workspace.explanations.of(FP, 1)] == ["better", "x"]


def test_many_explanations_are_added_at_once_and_each_once(workspace: Workspace) -> None:
    def draft(feature: int, text: str, dictionary_fp: str = FP) -> ExplanationDraft:
        return ExplanationDraft(dictionary_fp=dictionary_fp, feature=feature, text=text, method="m")

    rows = [(draft(i, f"text {i}"), [("fuzz", 0.5), ("detection", 1.0), ("fuzz", 0.75)]) for i in range(1200)]
    rows += [(draft(0, "text 0"), []), (draft(0, "another"), []), (draft(0, "text 0", OTHER), [])]
    with silent():
        assert workspace.explanations.add(rows) == 1202
        assert workspace.labels.serial(FP) == 2, "one for each transaction"
        assert workspace.explanations.add([*rows, (draft(1300, "later"), [])]) == 1
    first, second = workspace.explanations.of(FP, 0)
    assert (first.text, first.score, second.text, second.score) == ("text 0", 0.875, "another", None)
    assert [(row.scorer, row.value) for row in workspace.scores.of(first.id)][1] == ("detection", 1.0)
    assert len(workspace.labels.all(FP)) == 1201
    assert workspace.labels.all(FP)[1300].text == "later"
    assert workspace.labels.counts() == {FP: 1201, OTHER: 1}


def test_a_label_of_an_explanation_names_it() -> None:
    with pytest.raises(ValidationError, match="has source 'explanation'"):
        LabelDraft(dictionary_fp=FP, feature=1, text="x", explanation_id=ulid())


def test_a_reader_asks_for_what_changed(workspace: Workspace) -> None:
    assert workspace.labels.changes(FP, 0) == (0, [])
    workspace.labels.write(FP, 1, "one")
    two = workspace.labels.write(FP, 2, "two")
    workspace.labels.write(OTHER, 9, "elsewhere")
    serial, changed = workspace.labels.changes(FP, 0)
    assert (serial, changed) == (2, None)
    explain(workspace, "three", 0.5, feature=3)
    workspace.labels.delete(two.id)
    latest, changed = workspace.labels.changes(FP, serial)
    assert changed == [2, 3]
    assert workspace.labels.changes(FP, latest) == (latest, [])
    assert workspace.labels.changes(FP, latest + 5) == (latest, None)
    assert workspace.labels.counts() == {FP: 2, OTHER: 1}


def test_labels_in_memory_follow_what_others_write(workspace_url: str) -> None:
    with Workspace.open(workspace_url) as here, Workspace.open(workspace_url) as there:
        for feature in range(5):
            there.labels.write(FP, feature, f"feature {feature}")
        first = here.labels.all(FP)
        assert [first[i].text for i in range(5)] == [f"feature {i}" for i in range(5)]
        gone = there.labels.of(FP, 3)[0]
        there.labels.delete(gone.id)
        there.labels.write(FP, 4, "four")
        assert {i: label.text for i, label in here.labels.all(FP).items()} == {
            0: "feature 0", 1: "feature 1", 2: "feature 2", 4: "four",
        }  # fmt: skip
        assert here.labels.all(FP) is here.by("ada").labels.all(FP)
        assert first[4].text == "feature 4", "what was handed out before does not change"


def test_a_reader_who_missed_a_purge_reads_all_again(workspace: Workspace) -> None:
    label = workspace.labels.write(FP, 1, "one")
    workspace.labels.write(FP, 2, "two")
    serial = workspace.labels.serial(FP)
    assert set(workspace.labels.all(FP)) == {1, 2}
    workspace.labels.delete(label.id)
    assert workspace.purge(timedelta(0)) == 1
    assert workspace.labels.changes(FP, serial)[1] is None
    assert set(workspace.labels.all(FP)) == {2}


def test_an_explanation_that_was_purged_leaves_the_label_taken_from_it(workspace: Workspace) -> None:
    id = explain(workspace, "x", 0.5)
    label = workspace.labels.choose(id)
    workspace.explanations.delete(id)
    workspace.purge(timedelta(0))
    assert workspace.labels.get(label.id).explanation_id is None
    assert workspace.labels.best(FP, 1) == BestLabel(1, "x", "explanation", "local", None)
