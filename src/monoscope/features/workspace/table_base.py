"""What the workspace's tables are made of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Utc(TypeDecorator[datetime]):
    """A time in UTC, with its zone on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a time without a zone; SQLite keeps none, so that all are written in UTC."""
        if value is None:
            return None
        assert value.tzinfo is not None, "times in the workspace carry their zone"
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """UTC, said aloud."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Root of the tables; constraints have names, so that a migration can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        str: Text,
        datetime: Utc,
        dict[str, Any]: JSON,
        list[Any]: JSON,
        int: Integer,
        float: Float(53),
        bool: Boolean,
    }


Id = String(26)
Short = String(200)


class Kept(Base):
    """What every row that somebody makes carries."""

    __abstract__ = True

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    version: Mapped[int]
    created: Mapped[datetime]
    updated: Mapped[datetime]
    deleted: Mapped[datetime | None]
    author: Mapped[str] = mapped_column(Short)


def one_live(name: str, *columns: str) -> Index:
    """Rows that are not deleted differ in these columns."""
    live = text("deleted IS NULL")
    return Index(name, *columns, unique=True, sqlite_where=live, postgresql_where=live)
