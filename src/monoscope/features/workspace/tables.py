"""The workspace's tables. No type here belongs to one database, so SQLite and PostgreSQL hold the same.

Rows that people make carry an id (ULID), a version that each change raises, times in UTC, an author, and the time of
their deletion; what is deleted stays for 30 days. Uniqueness is among rows that are not deleted.

Labels and explanations carry a ``serial`` besides: the number of their dictionary's latest change when they were
written, from ``dictionaries``, whose row is locked until the change is whole. Whoever remembers a serial can ask for
what came after it, and misses nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from monoscope.features.workspace.table_base import Base, Id, Kept, Short, one_live


class Meta(Base):
    """Facts about the workspace itself."""

    __tablename__ = "meta"

    key: Mapped[str] = mapped_column(Short, primary_key=True)
    value: Mapped[str]


class DictionaryRow(Base):
    """How many changes a dictionary's labels have seen, and up to which of them deleted rows were purged."""

    __tablename__ = "dictionaries"

    fingerprint: Mapped[str] = mapped_column(String(128), primary_key=True)
    serial: Mapped[int] = mapped_column(BigInteger)
    purged: Mapped[int] = mapped_column(BigInteger)


class BundleRow(Kept):
    """See ``records.BundleDraft``."""

    __tablename__ = "bundles"
    __table_args__ = (one_live("uq_bundles_path", "path"),)

    path: Mapped[str]
    fingerprint: Mapped[str] = mapped_column(String(128))
    dictionary_fp: Mapped[str] = mapped_column(String(128), index=True)
    model_id: Mapped[str | None]
    alias: Mapped[str | None]
    last_opened: Mapped[datetime | None]
    missing: Mapped[bool]


class ExplanationRow(Kept):
    """See ``records.ExplanationDraft``."""

    __tablename__ = "explanations"
    __table_args__ = (
        Index("ix_explanations_feature", "dictionary_fp", "feature"),
        Index("ix_explanations_serial", "dictionary_fp", "serial"),
    )

    dictionary_fp: Mapped[str] = mapped_column(String(128))
    feature: Mapped[int]
    text: Mapped[str]
    method: Mapped[str] = mapped_column(Short)
    judge: Mapped[str | None] = mapped_column(Short)
    run_id: Mapped[str | None] = mapped_column(Short)
    score: Mapped[float | None]
    serial: Mapped[int] = mapped_column(BigInteger)


class ScoreRow(Kept):
    """See ``records.ScoreDraft``."""

    __tablename__ = "explanation_scores"

    explanation_id: Mapped[str] = mapped_column(Id, ForeignKey("explanations.id", ondelete="CASCADE"), index=True)
    scorer: Mapped[str] = mapped_column(Short)
    value: Mapped[float]
    details: Mapped[dict[str, Any]]


class LabelRow(Kept):
    """See ``records.LabelDraft``."""

    __tablename__ = "labels"
    __table_args__ = (
        one_live("uq_labels_feature_author", "dictionary_fp", "feature", "author"),
        Index("ix_labels_serial", "dictionary_fp", "serial"),
    )

    dictionary_fp: Mapped[str] = mapped_column(String(128))
    feature: Mapped[int]
    text: Mapped[str]
    source: Mapped[str] = mapped_column(String(20))
    explanation_id: Mapped[str | None] = mapped_column(Id, ForeignKey("explanations.id", ondelete="SET NULL"))
    serial: Mapped[int] = mapped_column(BigInteger)


class BookmarkRow(Kept):
    """See ``records.BookmarkDraft``."""

    __tablename__ = "bookmarks"
    __table_args__ = (one_live("uq_bookmarks_feature_author", "dictionary_fp", "feature", "author"),)

    dictionary_fp: Mapped[str] = mapped_column(String(128))
    feature: Mapped[int]


class TagRow(Kept):
    """See ``records.TagDraft``."""

    __tablename__ = "tags"
    __table_args__ = (one_live("uq_tags_name", "name"),)

    name: Mapped[str] = mapped_column(Short)
    color: Mapped[str | None] = mapped_column(String(7))


class FeatureTagRow(Kept):
    """See ``records.FeatureTagDraft``."""

    __tablename__ = "feature_tags"
    __table_args__ = (one_live("uq_feature_tags_feature_tag", "dictionary_fp", "feature", "tag_id"),)

    dictionary_fp: Mapped[str] = mapped_column(String(128))
    feature: Mapped[int]
    tag_id: Mapped[str] = mapped_column(Id, ForeignKey("tags.id", ondelete="CASCADE"), index=True)


class ListRow(Kept):
    """See ``records.ListDraft``."""

    __tablename__ = "lists"

    name: Mapped[str] = mapped_column(Short)
    description: Mapped[str]


class ListItemRow(Kept):
    """See ``records.ListItemDraft``."""

    __tablename__ = "list_items"
    __table_args__ = (
        one_live("uq_list_items_list_feature", "list_id", "dictionary_fp", "feature"),
        Index("ix_list_items_feature", "dictionary_fp", "feature"),
    )

    list_id: Mapped[str] = mapped_column(Id, ForeignKey("lists.id", ondelete="CASCADE"))
    dictionary_fp: Mapped[str] = mapped_column(String(128))
    feature: Mapped[int]
    position: Mapped[float]
    note: Mapped[str]


class NoteRow(Kept):
    """See ``records.NoteDraft``."""

    __tablename__ = "notes"
    __table_args__ = (Index("ix_notes_target", "target_kind", "target_id"),)

    target_kind: Mapped[str] = mapped_column(String(20))
    target_id: Mapped[str]
    markdown: Mapped[str]


class FilterRow(Kept):
    """See ``records.FilterDraft``."""

    __tablename__ = "filters"

    name: Mapped[str] = mapped_column(Short)
    page: Mapped[str] = mapped_column(Short)
    state: Mapped[dict[str, Any]]


class LinkRow(Kept):
    """See ``records.LinkDraft``."""

    __tablename__ = "links"
    __table_args__ = (one_live("uq_links_short", "short"),)

    short: Mapped[str] = mapped_column(String(32))
    state: Mapped[dict[str, Any]]
    expires: Mapped[datetime | None]


class GraphRow(Kept):
    """See ``records.GraphDraft``."""

    __tablename__ = "graphs"
    __table_args__ = (one_live("uq_graphs_slug", "slug"),)

    slug: Mapped[str] = mapped_column(Short)
    model_id: Mapped[str] = mapped_column(Short)
    prompt: Mapped[str]
    path: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))
    n_nodes: Mapped[int]
    n_links: Mapped[int] = mapped_column(BigInteger)
    dictionary_fps: Mapped[list[Any]]


class SubgraphRow(Kept):
    """See ``records.SubgraphDraft``."""

    __tablename__ = "subgraphs"

    graph_id: Mapped[str] = mapped_column(Id, ForeignKey("graphs.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(Short)
    pinned: Mapped[list[Any]]
    supernodes: Mapped[list[Any]]
    labels: Mapped[dict[str, Any]]
    thresholds: Mapped[dict[str, Any]]


class RunRow(Kept):
    """See ``records.RunDraft``."""

    __tablename__ = "runs"
    __table_args__ = (one_live("uq_runs_path", "path"),)

    path: Mapped[str]
    recipe: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(20))
    last_step: Mapped[int] = mapped_column(BigInteger)


class SettingRow(Kept):
    """See ``records.SettingDraft``."""

    __tablename__ = "settings"
    __table_args__ = (one_live("uq_settings_key_author", "key", "author"),)

    key: Mapped[str] = mapped_column(Short)
    value: Mapped[dict[str, Any]]


class JobRow(Kept):
    """See ``records.Job``."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_state", "state", "id"),)

    kind: Mapped[str] = mapped_column(Short)
    config: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(20))
    progress: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[str | None]
    pid: Mapped[int | None]
    claim: Mapped[str | None] = mapped_column(Id)
    attempt: Mapped[int]
    cancelling: Mapped[bool]
    heartbeat: Mapped[datetime | None]
    started: Mapped[datetime | None]
    finished: Mapped[datetime | None]
    n_events: Mapped[int]


class JobEventRow(Base):
    """See ``records.JobEvent``."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    time: Mapped[datetime]
    level: Mapped[str] = mapped_column(String(20))
    body: Mapped[dict[str, Any]]


class AuditRow(Base):
    """See ``records.Audit``."""

    __tablename__ = "audit"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    created: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(Short)
    action: Mapped[str] = mapped_column(String(20))
    target: Mapped[str]
    before: Mapped[dict[str, Any]]
