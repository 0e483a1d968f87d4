"""Where the workspace is, as pages may say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from monoscope.server.desk import Desk


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ("postgresql://ada:secret@host:5432/lab", "postgresql://ada:***@host:5432/lab"),
        ("postgresql+psycopg://ada:se/c:r@e?t@host/lab", "postgresql+psycopg://ada:***@host/lab"),
        ("postgresql:///lab?user=ada&password=secret", "postgresql:///lab"),
        ("postgresql://ada@host/lab", "postgresql://ada@host/lab"),
    ],
)
def test_the_address_of_a_database_has_no_password(where: str, shown: str) -> None:
    assert Desk(where, "ada").address == shown


def test_the_address_of_a_file_is_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Desk("work.db", "ada").address == str(tmp_path / "work.db")
