"""The Hugging Face hub as folders: ``hf://org/repo``, ``hf://org/repo/path``, either with ``@revision``.

    names            one request; it also says which commit is meant, which every file then comes from
    configurations   fetched whole, into the hub's own cache, where the next call and every other library find them
    headers, rows    read by range: describing a file of gigabytes costs some kilobytes
    all of a file    fetched into the cache; an interrupted download goes on where it stopped

Offline (``HF_HUB_OFFLINE=1``, or no network), what the cache holds is opened. The endpoint, the cache and the token are
those of ``huggingface_hub``: ``HF_ENDPOINT``, ``HF_HOME``, ``hf auth login``.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from monoscope.core.errors import HubError, nearest
from monoscope.formats.blob import Blob, FileBlob
from monoscope.formats.folder import MOST_FILES, TENSOR_FILES, Folder, LocalFolder, is_hidden
from monoscope.formats.hub_file import (
    SCHEME,
    SMALL,
    TIMEOUT,
    HubBlob,
    HubFile,
    HubRef,
    Repository,
    Unreachable,
    cache_of,
    endpoint,
    explained,
)


def open_hub(ref: str) -> Folder:
    """The folder of a reference to the hub, or of what the cache holds of it. Raises HubError."""
    from huggingface_hub import constants

    parsed = HubRef.parse(ref)
    if constants.HF_HUB_OFFLINE:
        return _cached(parsed, "HF_HUB_OFFLINE is set")
    try:
        return _online(parsed)
    except Unreachable as error:
        return _cached(parsed, str(error))


def _online(ref: HubRef) -> Folder:
    from huggingface_hub import HfApi

    with explained(ref):
        info = HfApi(endpoint=endpoint()).model_info(ref.repo, revision=ref.revision, timeout=TIMEOUT)
    names = [sibling.rfilename for sibling in info.siblings or []]
    if len(names) > MOST_FILES:
        raise HubError(f"{ref} lists {len(names):,} files, and {MOST_FILES:,} are the most")
    if info.sha is None:
        raise HubError(f"{ref} has no commit: the repository is empty")
    _remember(ref, info.sha)
    license = info.card_data.get("license") if info.card_data else None
    return HubFolder(Repository(ref.repo, ref.revision, info.sha, tuple(sorted(names))), ref.path, license)


def _cached(ref: HubRef, why: str) -> Folder:
    """The files of a repository that the cache holds."""
    root = cache_of(ref.repo)
    commit = _read(root / "refs" / ref.revision) or ref.revision
    place = root / "snapshots" / commit
    if not place.is_dir():
        raise HubError(f"{ref} is not in the cache, and the hub cannot be asked: {why}")
    path = place / ref.path
    if not path.exists():
        raise HubError(f"{ref} is not in the cache, which holds other files of {ref.repo}; and {why}")
    return CachedFolder(path, ref, commit, why)


class HubFolder(Folder):
    """Files of a repository, below a path, fetched when they are asked for."""

    def __init__(self, repository: Repository, path: str, license: str | None = None) -> None:
        super().__init__()
        self.repository, self.license = repository, license
        self.focus = ""
        if path in repository.names:
            path, _, self.focus = path.rpartition("/")
        self.prefix = f"{path}/" if path else ""
        self.name = f"{SCHEME}{repository.repo}" + (f"/{path}" if path else "")
        self._names = [name.removeprefix(self.prefix) for name in repository.names if name.startswith(self.prefix)]
        if self.focus:
            beside = [name for name in self._names if "/" not in name]
            self._names = [name for name in beside if name == self.focus or not name.endswith(TENSOR_FILES)]
        if not self._names:
            known = {str(parent) for name in repository.names for parent in PurePosixPath(name).parents} - {"."}
            near = nearest(path, {*known, *repository.names}) if repository.names else "it is empty"
            raise HubError(f"{repository.repo} has nothing at {path}; {near}")
        self._blobs: dict[str, Blob] = {}

    @property
    def origin(self) -> str:
        """The reference with its commit, under which the same files are found later."""
        return f"{self.name}@{self.repository.commit}"

    def names(self) -> list[str]:
        """Relative paths of all files; what begins with a dot is left out."""
        return [name for name in self._names if not is_hidden(name)]

    def path(self, name: str) -> Path:
        """The file in the cache, fetched as a whole."""
        return HubFile(self.repository, self.prefix + self.check(name)).fetched()

    def blob(self, name: str) -> Blob:
        """The file's bytes: from the cache, or by range; small files are fetched."""
        if name not in self._blobs:
            file, where = HubFile(self.repository, self.prefix + self.check(name)), self.where(name)
            here = file.cached()
            if here is None and file.size <= SMALL:
                here = file.fetched()
            self._blobs[name] = FileBlob(here, where) if here is not None else HubBlob(file, where)
        return self._blobs[name]

    def within(self, prefix: str) -> HubFolder:
        """The folder of a directory in this one."""
        return HubFolder(self.repository, (self.prefix + prefix).strip("/"), self.license)


class CachedFolder(LocalFolder):
    """What the cache holds of a repository while the hub cannot be asked."""

    def __init__(self, path: Path, ref: HubRef, commit: str, why: str) -> None:
        super().__init__(path, str(ref))
        self.commit, self.why = commit, why

    @property
    def origin(self) -> str:
        """The reference with its commit."""
        return f"{self.name}@{self.commit}"

    def check(self, name: str) -> str:
        """The name, if the cache holds the file."""
        if name not in self.names() and ".." not in PurePosixPath(name).parts:
            raise HubError(f"{self.where(name)} is not in the cache, and the hub cannot be asked: {self.why}")
        return super().check(name)


def _remember(ref: HubRef, commit: str) -> None:
    """Note which commit a revision stands for, as the hub's own library does, for calls that come offline."""
    if ref.revision == commit:
        return
    place = cache_of(ref.repo) / "refs" / ref.revision
    if _read(place) != commit:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(commit, encoding="utf-8")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
