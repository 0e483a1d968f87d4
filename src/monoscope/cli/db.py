"""``monoscope db``: the workspace's database: brought up to date, copied, moved to another kind."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monoscope.cli.bundles import drafts
from monoscope.cli.session import Force, Json, session, show

db = typer.Typer(
    name="db",
    help="Upgrade, back up, move or fill a workspace: a SQLite file, or postgresql+psycopg://USER@HOST/NAME.",
    no_args_is_help=True,
)
Where = Annotated[str, typer.Argument(metavar="WORKSPACE", show_default=False, help="A file, or a database's address.")]


@db.command()
def upgrade(workspace: Where, as_json: Json = False) -> None:
    """Bring a workspace of an older release up to date; of a SQLite file a copy is kept beside it."""
    with session(as_json=as_json):
        from monoscope.features.workspace import Workspace, migrate
        from monoscope.features.workspace.connect import connect, refuse_missing, workspace_url

        refuse_missing(workspace)
        engine = connect(workspace_url(workspace))
        try:
            before = migrate.revision(engine)
        finally:
            engine.dispose()
        with Workspace.open(workspace) as opened:
            after = migrate.revision(opened.database.engine)
            show({"workspace": opened.url, "before": before or "empty", "after": after}, as_json=as_json)


@db.command()
def backup(
    workspace: Where,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", show_default=False, help="SQLite file to write.")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Copy a workspace as it is at one moment to a SQLite file, while servers go on writing."""
    with session(as_json=as_json):
        from monoscope.core.io import refuse_existing
        from monoscope.features.workspace.move import save

        refuse_existing(out, force=force)
        size = save(workspace, out)
        show({"workspace": _plain(workspace), "copy": str(out), "bytes": size}, as_json=as_json)


@db.command()
def move(
    workspace: Where,
    target: Annotated[str, typer.Argument(metavar="TARGET", show_default=False, help="A new file or empty database.")],
    as_json: Json = False,
) -> None:
    """Copy a workspace to another database and compare the two; stop the servers that write to it first."""
    with session(as_json=as_json):
        from monoscope.features.workspace.move import move as copy

        rows = {table: n for table, n in copy(workspace, target).items() if n}
        show({"from": _plain(workspace), "to": _plain(target), "rows": rows}, as_json=as_json)


@db.command()
def explain(
    workspace: Where,
    source: Annotated[Path, typer.Argument(metavar="FILES", show_default=False, help="JSON lines, or a directory.")],
    bundle: Annotated[
        Path, typer.Option("--bundle", metavar="DIR", show_default=False, help="Whose features they are.")
    ],
    place: Annotated[
        str | None, typer.Option("--hookpoint", metavar="NAME", show_default=False, help="Of several, the one to take.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take explanations and scores of delphi, Neuronpedia or JSON lines into a workspace; none is taken twice."""
    with session(as_json=as_json):
        from monoscope.features import FeatureBundle
        from monoscope.features.exchange import read_explanations
        from monoscope.features.workspace import Workspace

        opened = FeatureBundle.open(bundle)
        with Workspace.open(workspace) as space:
            new = space.explanations.add(drafts(opened, read_explanations(source, place)))
            show({"workspace": _plain(workspace), "explanations": new}, as_json=as_json)


def _plain(where: str) -> str:
    """An address without its password."""
    from monoscope.features.workspace.connect import workspace_url

    return workspace_url(where).render_as_string(hide_password=True)
