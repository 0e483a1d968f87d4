"""Search: what is found, why, and where in the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_bundle import FP
from search_cases import Ask, Meaning, query, small

from monoscope.core.errors import ConfigError, DataError, ModelError
from monoscope.core.progress import silent
from monoscope.features.search import MODES, LocalEmbedder, Search, packaged
from monoscope.features.search.records import cut
from monoscope.features.workspace import Workspace
from monoscope.features.workspace.records import ExplanationDraft


def matched(search: Search, text: str, feature: int, **options: Any) -> list[str]:
    """The matched pieces of one hit's snippet."""
    hit = next(hit for hit in query(search, text, **options).hits if hit.feature == feature)
    return [hit.snippet[start:stop] for start, stop in hit.ranges]


def test_words_are_found_while_they_are_typed(search: Search, ask: Ask) -> None:
    for typed in ("bra", "brackets", "opening bra", "(brackets"):
        assert ask(typed)[3] == "label"
    assert matched(search, "opening bra", 3) == ["opening", "brackets"]
    assert ask("categor", mode="prefix") == {1: "label"}
    assert matched(search, "CATEGORIES", 1) == ["Catégories"]
    assert 3 not in ask("brackets nowhere")
    assert 3 not in ask("bra ", mode="prefix"), "a word that is ended is whole"


def test_a_phrase_has_its_words_side_by_side(ask: Ask) -> None:
    assert ask("opening brackets", mode="exact")[3] == "label"
    assert ask('"opening brackets"') == ask("opening brackets", mode="exact")
    assert 3 not in ask("brackets opening", mode="exact")
    assert 3 in ask("brackets opening")


@pytest.mark.parametrize(("typed", "piece"), [("🙂", "🙂"), ("ngs", "ngs"), ("f 🙂", "f 🙂")])
def test_any_letters_are_found_in_labels(search: Search, typed: str, piece: str) -> None:
    feature = {"🙂": 2, "ngs": 1, "f 🙂": 2}[typed]
    assert matched(search, typed, feature) == [piece]


def test_tokens_lead_to_what_fires_on_them(search: Search, ask: Ask) -> None:
    assert next(iter(ask("token: cat"))) == 0
    assert ask("cat", mode="token")[0] == "token"
    assert matched(search, "cat", 0, mode="token") == [" cat"]
    assert ask('" cat"', mode="token")[0] == "token"
    assert ask("\\xf0\\x9f", mode="token") == {2: "token"}
    assert ask("categ", mode="token") == {1: "token"}, "without a token of that text, those that begin with it"


def test_logits_lead_to_the_directions_that_raise_or_lower_them(search: Search, ask: Ask) -> None:
    assert list(ask("sat", mode="logit")) == [0, 4]
    assert ask("logit: dog") == {0: "logit"}
    scores = {hit.feature: hit.score for hit in query(search, "sat", mode="logit").hits}
    assert scores == {0: pytest.approx(0.9 * 2 / 4), 4: pytest.approx(0.9 * 1 / 4)}


def test_contexts_are_found_where_the_text_stands(search: Search, ask: Ask) -> None:
    assert ask("cat sat", mode="exact") == {0: "context", 2: "context"}, "2 has it in its window, 0 is strongest there"
    assert list(ask("cat sat", mode="exact")) == [0, 2]
    hit = query(search, "cat sat", mode="exact").hits[0]
    assert hit.snippet == "the cat sat dog🙂"
    assert matched(search, "CAT SAT", 0, mode="exact") == ["cat sat"]
    assert ask("dog🙂", mode="exact") == {2: "context", 0: "context"}
    assert ask("ca sat", mode="exact") == ask("at sat", mode="exact") == {}, "words are whole"
    assert ask("dog sat", mode="exact") == {4: "context"}, "feature 0 does not fire there"
    assert ask("dog dog", mode="exact") == {}, "a match does not run into the next sequence"


def test_regular_expressions_are_linear_and_say_where(search: Search, ask: Ask) -> None:
    assert ask("/^opening \\(\\w+/") == {3: "label"}
    assert matched(search, "/b.*s/", 3) == ["brackets"]
    assert ask("cats|halves", mode="regex") == {0: "label", 2: "label"}
    assert ask("^CATS", mode="regex") == {}, "a capital letter means a capital letter"
    assert 0 in ask("^ cat$", mode="regex"), "tokens are looked through, too"
    assert ask("(a*)*(a*)*(a*)*b|^halv", mode="regex")[2] == "label"
    for wrong in ("(", "a)(b", "(?<!a)b", "a{1000}{1000}", "[z-a]"):
        with pytest.raises(ConfigError, match="no regular expression that RE2 reads"):
            search.query(wrong, mode="regex")


def test_meaning_finds_what_shares_no_letter(search: Search, ask: Ask, meaning: Meaning) -> None:
    assert ask("opening hound", mode="semantic")[3] == "meaning"
    ask("opening (brackets)")
    assert ask("opening (brackets)")[3] == "label"
    assert query(search, "opening (brackets)", mode="semantic").hits[0].score == pytest.approx(1.0)
    assert meaning.seen.count("opening (brackets)") == 2, "once as a label, and once as a query"


def test_like_this_feature_is_the_cosine_of_directions(search: Search, ask: Ask) -> None:
    assert ask("like: 0") == {1: "direction"}
    cosine = 0.9 / np.hypot(0.9, 0.1)
    assert query(search, "small/0", mode="like").hits[0].score == pytest.approx(cosine, abs=1e-3)
    for wrong, message in (("cat", "takes a feature"), ("99", "no feature 99 in small"), ("other/1", "among small")):
        with pytest.raises(ConfigError, match=message):
            search.query(wrong, mode="like")


def test_a_number_is_the_feature(search: Search) -> None:
    for text in ("3", "#3", "small/3"):
        first = query(search, text).hits[0]
        assert (first.feature, first.why, first.score, first.label) == (3, "index", 1.0, "opening (brackets)")
    assert all(hit.why != "index" for text in ("6", "other/3", "٣") for hit in query(search, text).hits)


def test_one_hit_a_feature_with_its_label(search: Search, workspace: Workspace) -> None:
    draft = ExplanationDraft(dictionary_fp=FP, feature=0, text="fires on cats", method="m")
    workspace.explanations.create(draft)
    hits = query(search, "cats").hits
    assert [hit.feature for hit in hits].count(0) == 1
    assert (hits[0].label, hits[0].why) == ("cats, and what they do", "label")
    assert query(search, "fires").hits[0].why == "explanation"


def test_filters_by_label_and_dictionary(search: Search, tmp_path: Path, ask: Ask) -> None:
    assert set(ask("sat", labeled=False)) == {4}
    assert 4 not in ask("sat", labeled=True)
    search.add("other", small(tmp_path / "other.mono", dictionary_fp="cd" * 32))
    with silent():
        search.prepare(["other"])
    assert {hit.dictionary for hit in query(search, "sat").hits} == {"small", "other"}
    assert {hit.dictionary for hit in query(search, "sat", names=["other"]).hits} == {"other"}
    assert [hit.dictionary for hit in query(search, "like: other/0").hits][:1] == ["small"]
    search.remove("other")
    with pytest.raises(DataError, match="no dictionary 'other' is searched"):
        search.query("sat", names=["other"])


def test_more_says_that_there_are_more(search: Search) -> None:
    found = query(search, "/./", limit=2)
    assert (len(found.hits), found.more) == (2, True)
    assert not query(search, "brackets", limit=50).more


HOSTILE = [
    "", " ", "\n", "\0", "\ud800", "\ue000\ue001", '"', "''", "* OR NOT NEAR(", "a AND b", "^cat", "-cat", "text:cat",
    "cat*", "{", "}", "'; DROP TABLE texts; --", "\\", "%_", "שלום", "\u202eevil", "e\u0301", "İ", "ﬀ", "🙂" * 60,
    "a" * 500, "(" * 100, "\\xf0\\x9f", "1" * 40,
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_whatever_is_typed_is_answered_or_refused_in_words(search: Search, mode: Any) -> None:
    refused = set()
    for text in HOSTILE:
        try:
            query(search, text, mode=mode)
        except ConfigError:
            refused.add(text)
    unread = {"like": {text for text in HOSTILE if text.strip(" \n\0")}, "regex": {"* OR NOT NEAR(", "\\", "(" * 100}}
    assert refused == unread.get(mode, set())
    assert query(search, "brackets").hits[0].feature == 3


def test_what_is_too_long_or_unknown_is_refused(search: Search) -> None:
    with pytest.raises(ConfigError, match="at most 500 characters; found 501"):
        search.query("a" * 501)
    with pytest.raises(ConfigError, match="no mode 'fuzzy'"):
        search.query("a", mode="fuzzy")


def test_without_a_model_the_box_stays_lexical_and_says_so(tmp_path: Path, workspace: Workspace) -> None:
    search = Search(tmp_path / "s", workspace)
    search.add("small", small(tmp_path / "small.mono", directions=None))
    assert search.modes == ("auto", "exact", "prefix", "regex", "token", "logit")
    with pytest.raises(ConfigError, match="needs an embedding model"):
        search.query("cat", mode="semantic")
    with pytest.raises(ConfigError, match="carries its directions"):
        search.query("like: 1")
    assert search.query("cat").modes == search.modes
    search.close()


def test_before_it_is_prepared_a_search_says_what_is_missing(tmp_path: Path, workspace: Workspace) -> None:
    workspace.labels.write(FP, 3, "brackets")
    search = Search(tmp_path / "s", workspace)
    search.add("small", small(tmp_path / "small.mono"))
    assert search.waiting() == ["small"]
    found = search.query("brackets")
    assert found.hits == ()
    assert [note for note in found.notes if "not all indexed" in note]
    assert [note for note in found.notes if "tokens and contexts" in note]
    with silent():
        search.prepare()
    assert search.waiting() == []
    assert search.query("brackets").notes == ()
    search.close()


def test_snippets_are_cut_around_the_match() -> None:
    text = "x" * 300 + "match" + "y" * 300
    snippet, ranges = cut(text, ((300, 305),))
    assert len(snippet) <= 162
    assert [snippet[start:stop] for start, stop in ranges] == ["match"]
    assert cut("short", ((0, 2),)) == ("short", ((0, 2),))
    assert cut(text, ((300, 305), (600, 605)))[1] == ranges


def test_a_directory_that_is_no_model_of_sentences_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no model of sentences"):
        LocalEmbedder(tmp_path)
    assert packaged() is None or (packaged() / "config.json").is_file()
