"""Runs migrations on the connection that ``monoscope.features.workspace.migrate`` holds, inside its transaction."""

from __future__ import annotations

from alembic import context

from monoscope.features.workspace.tables import Meta

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Meta.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
