"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

TIME = sa.DateTime(timezone=True)

revision = "0001"
down_revision = None


def kept() -> list[sa.Column]:
    """Columns of a row that somebody makes."""
    return [
        sa.Column("id", sa.String(26), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("updated", TIME, nullable=False),
        sa.Column("deleted", TIME, nullable=True),
        sa.Column("author", sa.String(200), nullable=False),
    ]


def one_live(name: str, table: str, columns: list[str]) -> None:
    """Rows that are not deleted differ in these columns."""
    live = sa.text("deleted IS NULL")
    op.create_index(name, table, columns, unique=True, sqlite_where=live, postgresql_where=live)


def upgrade() -> None:
    """From an empty database."""

    op.create_table(
        "audit",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=20), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("before", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_created", "audit", ["created"])

    op.create_table(
        "bookmarks",
        *kept(),
        sa.Column("dictionary_fp", sa.String(length=128), nullable=False),
        sa.Column("feature", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_bookmarks"),
    )
    one_live("uq_bookmarks_feature_author", "bookmarks", ["dictionary_fp", "feature", "author"])

    op.create_table(
        "bundles",
        *kept(),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String(length=128), nullable=False),
        sa.Column("dictionary_fp", sa.String(length=128), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=True),
        sa.Column("alias", sa.Text(), nullable=True),
        sa.Column("last_opened", TIME, nullable=True),
        sa.Column("missing", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_bundles"),
    )
    op.create_index("ix_bundles_dictionary_fp", "bundles", ["dictionary_fp"])
    one_live("uq_bundles_path", "bundles", ["path"])

    op.create_table(
        "dictionaries",
        sa.Column("fingerprint", sa.String(length=128), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.Column("purged", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_dictionaries"),
    )

    op.create_table(
        "explanations",
        *kept(),
        sa.Column("dictionary_fp", sa.String(length=128), nullable=False),
        sa.Column("feature", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("method", sa.String(length=200), nullable=False),
        sa.Column("judge", sa.String(length=200), nullable=True),
        sa.Column("run_id", sa.String(length=200), nullable=True),
        sa.Column("score", sa.Float(precision=53), nullable=True),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_explanations"),
    )
    op.create_index("ix_explanations_feature", "explanations", ["dictionary_fp", "feature"])
    op.create_index("ix_explanations_serial", "explanations", ["dictionary_fp", "serial"])

    op.create_table(
        "filters",
        *kept(),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("page", sa.String(length=200), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_filters"),
    )

    op.create_table(
        "graphs",
        *kept(),
        sa.Column("slug", sa.String(length=200), nullable=False),
        sa.Column("model_id", sa.String(length=200), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("n_nodes", sa.Integer(), nullable=False),
        sa.Column("n_links", sa.BigInteger(), nullable=False),
        sa.Column("dictionary_fps", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_graphs"),
    )
    one_live("uq_graphs_slug", "graphs", ["slug"])

    op.create_table(
        "jobs",
        *kept(),
        sa.Column("kind", sa.String(length=200), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("claim", sa.String(length=26), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("cancelling", sa.Boolean(), nullable=False),
        sa.Column("heartbeat", TIME, nullable=True),
        sa.Column("started", TIME, nullable=True),
        sa.Column("finished", TIME, nullable=True),
        sa.Column("n_events", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_state", "jobs", ["state", "id"])

    op.create_table(
        "links",
        *kept(),
        sa.Column("short", sa.String(length=32), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("expires", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_links"),
    )
    one_live("uq_links_short", "links", ["short"])

    op.create_table(
        "lists",
        *kept(),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_lists"),
    )

    op.create_table(
        "meta",
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )

    op.create_table(
        "notes",
        *kept(),
        sa.Column("target_kind", sa.String(length=20), nullable=False),
        sa.Column("target_id", sa.Text(), nullable=False),
        sa.Column("markdown", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_notes"),
    )
    op.create_index("ix_notes_target", "notes", ["target_kind", "target_id"])

    op.create_table(
        "runs",
        *kept(),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    one_live("uq_runs_path", "runs", ["path"])

    op.create_table(
        "settings",
        *kept(),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_settings"),
    )
    one_live("uq_settings_key_author", "settings", ["key", "author"])

    op.create_table(
        "tags",
        *kept(),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("color", sa.String(length=7), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tags"),
    )
    one_live("uq_tags_name", "tags", ["name"])

    op.create_table(
        "explanation_scores",
        *kept(),
        sa.Column("explanation_id", sa.String(length=26), nullable=False),
        sa.Column("scorer", sa.String(length=200), nullable=False),
        sa.Column("value", sa.Float(precision=53), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["explanation_id"], ["explanations.id"], name="fk_explanation_scores_explanation_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_explanation_scores"),
    )
    op.create_index("ix_explanation_scores_explanation_id", "explanation_scores", ["explanation_id"])

    op.create_table(
        "feature_tags",
        *kept(),
        sa.Column("dictionary_fp", sa.String(length=128), nullable=False),
        sa.Column("feature", sa.Integer(), nullable=False),
        sa.Column("tag_id", sa.String(length=26), nullable=False),
        sa.ForeignKeyConstraint(["tag_id"], ["tags.id"], name="fk_feature_tags_tag_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_feature_tags"),
    )
    op.create_index("ix_feature_tags_tag_id", "feature_tags", ["tag_id"])
    one_live("uq_feature_tags_feature_tag", "feature_tags", ["dictionary_fp", "feature", "tag_id"])

    op.create_table(
        "job_events",
        sa.Column("job_id", sa.String(length=26), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("level", sa.String(length=20), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_events_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_job_events"),
    )

    op.create_table(
        "labels",
        *kept(),
        sa.Column("dictionary_fp", sa.String(length=128), nullable=False),
        sa.Column("feature", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("source", sa.String(length=20), nullable=False),
        sa.Column("explanation_id", sa.String(length=26), nullable=True),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["explanation_id"], ["explanations.id"], name="fk_labels_explanation_id", ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_labels"),
    )
    op.create_index("ix_labels_serial", "labels", ["dictionary_fp", "serial"])
    one_live("uq_labels_feature_author", "labels", ["dictionary_fp", "feature", "author"])

    op.create_table(
        "list_items",
        *kept(),
        sa.Column("list_id", sa.String(length=26), nullable=False),
        sa.Column("dictionary_fp", sa.String(length=128), nullable=False),
        sa.Column("feature", sa.Integer(), nullable=False),
        sa.Column("position", sa.Float(precision=53), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["list_id"], ["lists.id"], name="fk_list_items_list_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_list_items"),
    )
    op.create_index("ix_list_items_feature", "list_items", ["dictionary_fp", "feature"])
    one_live("uq_list_items_list_feature", "list_items", ["list_id", "dictionary_fp", "feature"])

    op.create_table(
        "subgraphs",
        *kept(),
        sa.Column("graph_id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("pinned", sa.JSON(), nullable=False),
        sa.Column("supernodes", sa.JSON(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("thresholds", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["graph_id"], ["graphs.id"], name="fk_subgraphs_graph_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_subgraphs"),
    )
    op.create_index("ix_subgraphs_graph_id", "subgraphs", ["graph_id"])
