"""Publishing: a directory becomes part of a repository on the Hugging Face hub, in one commit.

Who may see a repository is never decided in passing: a new one is made private or public as the caller says, and one
that is there has to be so already. Nothing there is replaced unless asked for; a README that is there stays.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monoscope.core.errors import HubError, OutputError
from monoscope.core.progress import progress
from monoscope.formats.hub_file import TIMEOUT, HubRef, endpoint, explained

CARD = "README.md"


def check_publishable(ref: HubRef, *, private: bool) -> list[str] | None:
    """Names of the files in a repository; None where it is to be made.

    Raises HubError without a token, and for a repository that others see than was said.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if not get_token():
        raise HubError("publishing needs a token of the hub: log in with 'hf auth login', or set HF_TOKEN")
    with explained(ref):
        try:
            info = HfApi(endpoint=endpoint()).model_info(ref.repo, timeout=TIMEOUT)
        except RepositoryNotFoundError:
            return None
    if info.private is not None and info.private != private:
        is_there, said = ("private", "public") if info.private else ("public", "private")
        raise HubError(f"{ref.repo} is {is_there}, not {said}; say --{is_there}, or change that on its page")
    return [sibling.rfilename for sibling in info.siblings or []]


def publish(directory: Path, ref: HubRef, *, private: bool, force: bool = False) -> dict[str, Any]:
    """Upload what a directory holds, and say where it is then.

    Raises OutputError where files of these names are there already, unless ``force``, and HubError for what the hub
    refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    inside = {f"{ref.path}/{name}".lstrip("/"): name for name in names}
    there = check_publishable(ref, private=private)
    standing = set(inside) & set(there or ())
    keeps_card = f"{ref.path}/{CARD}".lstrip("/") in standing and not force
    standing = {name for name in standing if inside[name] != CARD}
    if standing and not force:
        raise OutputError(f"{ref.repo} has {', '.join(sorted(standing)[:5])} already; replace it with --force")
    api = HfApi(endpoint=endpoint())
    size = sum((directory / name).stat().st_size for name in names)
    with explained(ref), progress(f"upload {len(names)} files", size, "bytes") as bar, _quiet():
        if there is None:
            api.create_repo(ref.repo, private=private)
        try:
            done = api.upload_folder(
                repo_id=ref.repo,
                folder_path=directory,
                path_in_repo=ref.path or None,
                revision=None if ref.revision == "main" else ref.revision,
                commit_message=f"Add {ref.path or 'a dictionary'}, written by monoscope",
                ignore_patterns=[CARD] if keeps_card else None,
            )
        except HfHubHTTPError:
            raise
        except (RuntimeError, ValueError) as error:  # of a large file, with the reason as its cause; of the card
            raise HubError(f"{error} {error.__cause__ or ''}".strip()) from None
        bar.advance(size)
    return {"url": f"{endpoint()}/{ref.repo}", "commit": done.oid, "files": list(inside), "card_kept": keeps_card}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the hub's own library from warning of itself, and from drawing bars where nobody looks."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hides = not sys.stderr.isatty() and not are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if hides:
            disable_progress_bars()
        try:
            yield
        finally:
            if hides:
                enable_progress_bars()
