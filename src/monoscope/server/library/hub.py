"""References to the hub, ``hf://org/repo/path@revision``: what its cache on this machine holds of them.

The server opens what was downloaded, and downloads nothing: what a browser asks for must not reach another host.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from monoscope.core.errors import DataError
from monoscope.server.library.models import hub_cache

SCHEME = "hf://"
NAME, REVISION = r"[A-Za-z0-9][\w.-]{0,95}", r"[A-Za-z0-9][\w./+-]{0,127}"
REFERENCE = re.compile(rf"hf://({NAME})/({NAME})(?:/([^@?\0]{{0,1024}}))?(?:@({REVISION}))?")


def cached(ref: str) -> tuple[Path, Path]:
    """The directory of a reference, and that of its repository, which it may not lead out of.

    Raises DataError for what is no reference, or was not downloaded.
    """
    found = REFERENCE.fullmatch(ref.strip())
    path = PurePosixPath(found[3] or "") if found else PurePosixPath()
    if found is None or path.is_absolute() or ".." in (*path.parts, *PurePosixPath(found[4] or "").parts):
        raise DataError(f"cannot read {ref!r}; write hf://org/repo, hf://org/repo/path or hf://org/repo/path@revision")
    repo, revision = f"{found[1]}/{found[2]}", found[4] or "main"
    root = hub_cache() / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / (_commit(root / "refs" / revision) or revision)
    if not (snapshot / path).is_dir():
        what = f" --include '{path}/*'" if path.parts else ""
        which = f" --revision {revision}" if found[4] else ""
        raise DataError(
            f"{ref} was not downloaded to this machine, and this server contacts no other one; download it with: "
            f"hf download {repo}{what}{which}"
        )
    return snapshot / path, root.resolve()


def _commit(path: Path) -> str:
    try:
        commit = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
    return commit if re.fullmatch(r"[0-9a-f]{40}", commit) else ""
