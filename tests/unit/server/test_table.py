"""The table of features: filtered and sorted as NumPy does it, paged anywhere, and nothing of a request is code."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import duckdb
import httpx
import numpy as np
import pyarrow as pa
import pytest

from monoscope.features import FeatureBundle
from monoscope.server.pool import Stop
from monoscope.server.problems import ProblemError
from monoscope.server.table.added import Added, AddedRow
from monoscope.server.table.columns import OPERATORS, digits
from monoscope.server.table.export import safe_cell
from monoscope.server.table.tables import Database

FEATURES = "/dictionaries/some-run/features"


def ask(client: httpx.Client, conditions: list[Any] | None = None, **query: Any) -> httpx.Response:
    return client.get(FEATURES, params={"filter": json.dumps(conditions or []), **query})


def ids(client: httpx.Client, conditions: list[Any] | None = None, **query: Any) -> list[int]:
    answer = ask(client, conditions, limit=1000, **query)
    assert answer.status_code == 200, answer.text
    return answer.json()["columns"]["feature"]


def test_pages_are_the_rows_of_numpy_s_order(client: httpx.Client, bundle: FeatureBundle) -> None:
    density, peak = bundle.column("density"), bundle.column("max_act")
    expected = np.lexsort((np.arange(len(bundle)), peak, -density))
    assert ids(client, sort="-density,max_act") == expected.tolist()
    page = ask(client, sort="-density,max_act", offset=250, limit=70, columns="max_act,density").json()
    assert (page["total"], page["offset"]) == (300, 250)
    assert page["columns"]["feature"] == expected[250:].tolist()
    np.testing.assert_allclose(page["columns"]["max_act"], peak[expected[250:]], rtol=1e-5)
    assert list(page["columns"]) == ["feature", "max_act", "density"]
    assert ask(client, sort="density", offset=10**9).json()["columns"]["feature"] == []


@pytest.mark.parametrize(
    ("column", "op", "value"),
    [
        ("density", "<", 0.03), ("density", ">=", 0.03), ("n_fired", "=", 0), ("n_fired", "!=", 0),
        ("feature", "in", [3, 7, 1000]), ("feature", "in", []), ("is_dead", "=", True), ("is_dead", "!=", True),
        ("max_act", ">", 1e308), ("feature", "<=", 5.5),
    ],
)  # fmt: skip
def test_conditions_on_numbers(client: httpx.Client, bundle: FeatureBundle, column: str, op: str, value: Any) -> None:
    values = bundle.column(column).astype(np.float64)
    keep = {
        "<": lambda: values < value, ">=": lambda: values >= value, ">": lambda: values > value,
        "<=": lambda: values <= value, "=": lambda: values == value, "!=": lambda: values != value,
        "in": lambda: np.isin(values, value),
    }[op]()  # fmt: skip
    assert ids(client, [{"column": column, "op": op, "value": value}]) == np.flatnonzero(keep).tolist()


@pytest.mark.parametrize(
    ("op", "value", "keeps"),
    [
        ("=", "=1+1", lambda t: t == "=1+1"),
        ("!=", "\n", lambda t: t != "\n"),
        ("contains", "SCRIPT", lambda t: "script" in t.lower()),
        ("contains", "%", lambda t: "%" in t),
        ("prefix", "tok1", lambda t: t.startswith("tok1")),
        ("matches", r"^tok\d$", lambda t: re.search(r"^tok\d$", t) is not None),
        ("in", ["-", "@x"], lambda t: t in ("-", "@x")),
        ("=", "' OR 1=1 --", lambda t: False),
        ("=", "\x00", lambda t: t == "\x00"),
    ],
)
def test_conditions_on_text(client: httpx.Client, bundle: FeatureBundle, op: str, value: Any, keeps: Any) -> None:
    texts = [bundle.vocabulary[token] for token in bundle.column("top_token")]
    expected = [i for i, text in enumerate(texts) if keeps(text)]
    assert ids(client, [{"column": "top_token", "op": op, "value": value}]) == expected


def test_conditions_hold_together(client: httpx.Client, bundle: FeatureBundle) -> None:
    conditions = [{"column": "density", "op": ">", "value": 0.028}, {"column": "n_sequences", "op": "<", "value": 38}]
    expected = (bundle.column("density") > np.float32(0.028)) & (bundle.column("n_sequences") < 38)
    assert ids(client, conditions) == np.flatnonzero(expected).tolist()


def test_tokens_a_feature_fires_on(client: httpx.Client, bundle: FeatureBundle) -> None:
    expected = [i for i in range(len(bundle)) if any(token.text == " cat" for token in bundle.feature(i).tokens)]
    assert 0 < len(expected) < len(bundle)
    assert ids(client, [{"column": "fires_on", "op": "=", "value": " cat"}]) == expected
    assert ids(client, [{"column": "fires_on", "op": "=", "value": "no such token"}]) == []


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"filter": "x"}, "Invalid JSON"),
        ({"filter": "{}"}, "array"),
        ({"filter": '[{"column": "density", "op": "<", "value": NaN}]'}, ""),
        ({"filter": '[{"column": "density", "op": "<", "value": 1e999}]'}, ""),
        ({"filter": '[{"column": "density", "op": "<", "value": "1"}]'}, "compared with a number"),
        ({"filter": '[{"column": "density", "op": "<", "value": true}]'}, "compared with a number"),
        ({"filter": '[{"column": "density", "op": "<", "value": [1]}]'}, "one value"),
        ({"filter": '[{"column": "density", "op": "matches", "value": "1"}]'}, "cannot be asked"),
        ({"filter": '[{"column": "density", "op": "; DROP", "value": 1}]'}, ""),
        ({"filter": '[{"column": "density\\" OR 1=1", "op": "<", "value": 1}]'}, ""),
        ({"filter": '[{"column": "denstiy", "op": "<", "value": 1}]'}, "no column 'denstiy'"),
        ({"filter": '[{"column": "top_token", "op": "matches", "value": "("}]'}, "cannot be applied"),
        ({"filter": '[{"column": "top_token", "op": "matches", "value": "(a{1000}){1000}"}]'}, "cannot be applied"),
        ({"filter": '[{"column": "is_dead", "op": "=", "value": 1}]'}, "compared with a boolean"),
        ({"filter": json.dumps([{"column": "density", "op": "<", "value": 1}] * 21)}, "20 conditions"),
        ({"filter": '[{"column": "density", "op": "<", "value": ' + "9" * 400 + "}]"}, ""),
        ({"filter": '[{"column": "promotes", "op": "=", "value": 5}]'}, "asked for a token"),
        ({"sort": "density;DROP TABLE t0"}, "no column"),
        ({"sort": "tags"}, "no order"),
        ({"sort": ",".join(["density"] * 7)}, "6 columns"),
        ({"columns": "density,nope"}, "no column 'nope'"),
        ({"limit": "1001"}, "less than or equal to 1000"),
        ({"limit": "0"}, "greater than"),
        ({"offset": "-1"}, "greater than"),
        ({"offset": "x"}, "integer"),
    ],
)  # fmt: skip
def test_questions_that_do_not_fit_say_why(client: httpx.Client, query: dict[str, str], says: str) -> None:
    answer = client.get(FEATURES, params=query)
    assert answer.status_code == 422, answer.text
    assert says in answer.json()["detail"]
    assert len(answer.content) < 3000


def test_a_misspelt_column_is_answered_with_the_nearest(client: httpx.Client) -> None:
    answer = ask(client, sort="-densty").json()
    assert "did you mean 'density'" in answer["hint"]


def test_place_and_neighbors_in_the_order(client: httpx.Client) -> None:
    order = ids(client, sort="-max_act")
    place = client.get(f"{FEATURES}/place", params={"feature": order[40], "sort": "-max_act"}).json()
    assert place == {"index": 40, "total": 300, "before": order[32:40][::-1], "after": order[41:49]}
    first = client.get(f"{FEATURES}/place", params={"feature": order[0], "sort": "-max_act"}).json()
    assert (first["index"], first["before"]) == (0, [])
    few = json.dumps([{"column": "feature", "op": "in", "value": [5, 6]}])
    outside = client.get(f"{FEATURES}/place", params={"feature": 7, "filter": few}).json()
    assert outside == {"index": None, "total": 2, "before": [], "after": [5, 6]}


def test_csv_holds_all_rows_and_no_formulas(client: httpx.Client, bundle: FeatureBundle) -> None:
    answer = client.get(
        FEATURES, params={"columns": "density,top_token", "sort": "-density"}, headers={"Accept": "text/csv"}
    )
    assert answer.headers["content-type"].startswith("text/csv")
    assert 'filename="some-run-features.csv"' in answer.headers["content-disposition"]
    rows = list(csv.reader(io.StringIO(answer.content.decode(), newline="")))
    assert rows[0] == ["feature", "density", "top_token"]
    assert len(rows) == 301
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row)
    texts = {bundle.vocabulary[token] for token in bundle.column("top_token")}
    assert {"=1+1", "@x"} <= texts
    assert {"'=1+1", "'@x"} <= {row[2] for row in rows}
    assert np.float32(rows[1][1]) == bundle.column("density").max()


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "\r=1", " =1", "\n=1", "=cmd|' /C calc'!A0"])
def test_cells_that_spreadsheets_would_run(text: str) -> None:
    assert safe_cell(text) == f"'{text}"


def test_cells_that_they_would_not() -> None:
    assert [safe_cell(text) for text in ("a=1", " cat", "", "1-1")] == ["a=1", " cat", "", "1-1"]


def test_arrow_gives_back_the_columns(client: httpx.Client, bundle: FeatureBundle) -> None:
    accept = {"Accept": "application/vnd.apache.arrow.stream"}
    answer = client.get(
        FEATURES, params={"columns": "density,top_token,tags,score", "sort": "-density"}, headers=accept
    )
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.schema.names == ["feature", "density", "top_token", "tags", "score"]
    order = np.lexsort((np.arange(300), -bundle.column("density")))
    np.testing.assert_array_equal(table.column("feature").to_numpy(), order)
    np.testing.assert_array_equal(table.column("density").to_numpy(), bundle.column("density")[order])


def test_columns_say_what_they_are(client: httpx.Client, bundle: FeatureBundle) -> None:
    columns = {column["name"]: column for column in client.get("/dictionaries/some-run").json()["columns"]}
    density = columns["density"]
    assert (density["type"], density["operators"]) == ("number", list(OPERATORS["number"]))
    np.testing.assert_allclose(
        [density["min"], density["max"]], [bundle.column("density").min(), bundle.column("density").max()], rtol=1e-5
    )
    assert columns["top_token"]["type"] == "text"
    assert columns["label"]["type"] == "text"
    assert all(column["help"] for column in columns.values())
    assert "map_x" not in columns  # null throughout


def test_what_people_added_is_joined(bundle: FeatureBundle) -> None:
    rows = {
        4: AddedRow(label="beta", score=0.5, tags=("blue",), bookmarked=True),
        9: AddedRow(label="Alpha", tags=("red", "blue")),
        2: AddedRow(tags=("red",)),
    }
    added, table = Added("1", rows), Database().table(bundle)

    def order(filter: list[Any], sort: str = "", added: Added = added) -> list[int]:
        return table.order(table.question(json.dumps(filter), sort), added, Stop()).tolist()

    assert order([], "label")[:3] == [9, 4, 0]
    assert order([], "-score")[:2] == [4, 0]
    assert order([{"column": "label", "op": "matches", "value": "^[aA]l"}]) == [9]
    assert order([{"column": "label", "op": "not_null"}]) == [4, 9]
    assert order([{"column": "tags", "op": "=", "value": "blue"}]) == [4, 9]
    assert order([{"column": "tags", "op": "in", "value": ["red", "green"]}]) == [2, 9]
    assert len(order([{"column": "tags", "op": "is_null"}])) == 297
    assert order([{"column": "bookmarked", "op": "=", "value": True}]) == [4]
    assert len(order([{"column": "bookmarked", "op": "=", "value": False}])) == 299
    later = Added("2", {7: AddedRow(label="new")})
    assert order([{"column": "label", "op": "not_null"}], added=later) == [7]
    assert order([{"column": "label", "op": "not_null"}]) == [4, 9]


def test_the_database_reads_no_files_and_cannot_be_set_up_anew(bundle: FeatureBundle, tmp_path: Any) -> None:
    database = Database()
    for sql in (
        f"SELECT * FROM read_parquet('{bundle.path}/features.parquet')",
        f"SELECT * FROM '{bundle.path}/features.parquet'",
        "SELECT * FROM read_text('/etc/passwd')",
        f"COPY (SELECT 1) TO '{tmp_path}/x.csv'",
        f"ATTACH '{tmp_path}/x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '100GB'",
        "SELECT * FROM bundle",
    ):
        with pytest.raises(duckdb.Error), database._connection.cursor() as cursor:
            cursor.execute(sql)
    assert list(tmp_path.iterdir()) == []


def test_a_question_nobody_waits_for_is_not_asked(bundle: FeatureBundle) -> None:
    table = Database().table(bundle)
    stop = Stop()
    stop.set()
    with pytest.raises(ProblemError, match="given up"):
        table.order(table.question("", "density"), Added(), stop)


def test_a_running_question_is_interrupted() -> None:
    database, stop, seen = Database(), Stop(), []
    import threading
    import time

    def slow() -> None:
        with database.cursor(stop) as cursor:
            cursor.execute(
                "SELECT count(*) FROM range(100000) a, range(1000000) b WHERE a.range * b.range % 7 = 3"
            ).fetchall()

    def run() -> None:
        try:
            slow()
        except ProblemError as error:
            seen.append(error.problem.status)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.3)
    began = time.monotonic()
    stop.set()
    thread.join(10)
    assert seen == [499]
    assert time.monotonic() - began < 3


def test_digits_are_those_single_precision_holds() -> None:
    values = np.array([0.1, 123456.7, 1e-30, -2.5, 0.0, np.nan, np.inf, 3e38, 1e-45], np.float32)
    shown = digits(values)
    assert shown[:5] == [0.1, 123457.0, 1e-30, -2.5, 0.0]
    assert shown[5:7] == [None, None]
    np.testing.assert_allclose(shown[7:], values[7:].astype(np.float64), rtol=1e-5)
    assert digits(np.array([1, 2], np.uint64)) == [1, 2]
