"""One file on the Hugging Face hub: its size, its bytes by range, and its place in the hub's cache.

A whole file is fetched into the cache under the layout that every library of the hub shares. What an interrupted
download left is gone on with; what arrives is compared with its stated size and, if it is large, its SHA-256.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from monoscope.core.errors import HubError
from monoscope.core.progress import progress
from monoscope.formats.blob import Blob, FileBlob, Span

SCHEME = "hf://"
SMALL = 2**22  # bytes up to which a file is fetched whole
BLOCK = 2**18  # bytes read at once where less is asked for
BLOCKS = 64  # blocks that are kept
MOST_RANGES, MOST_RANGED = 64, 2**25  # requests, and bytes, beyond which fetching the whole file is cheaper
CHUNK = 2**20
TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class HubRef:
    """A repository on the hub, a path in it, and a revision."""

    repo: str
    path: str = ""
    revision: str = "main"

    @staticmethod
    def parse(ref: str) -> HubRef:
        """The parts of ``hf://org/repo[/path][@revision]``. Raises HubError for what does not read like that."""
        found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:/([^@?]*))?(?:(?:@|\?revision=)([\w./+-]+))?", ref)
        parts = PurePosixPath(found[2] or "").parts if found else ()
        if found is None or ".." in parts or (found[2] or "").startswith("/"):
            raise HubError(
                f"cannot read {ref!r}; write hf://org/repo, hf://org/repo/path or hf://org/repo/path@revision"
            )
        return HubRef(found[1], (found[2] or "").strip("/"), found[3] or "main")

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}" + (f"/{self.path}" if self.path else "")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit."""

    repo: str
    revision: str
    commit: str
    names: tuple[str, ...]


class HubBlob(Blob):
    """A file on the hub, read by range; as a whole once much of it is wanted."""

    def __init__(self, file: HubFile, name: str) -> None:
        self.file, self.name, self.size = file, name, file.size
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._whole: FileBlob | None = None

    def into(self, spans: Sequence[Span], buffer: memoryview) -> None:
        """Read spans one behind the other into a buffer of just their size."""
        if self._whole is None and (len(buffer) > MOST_RANGED or len(self._needed(spans)) > MOST_RANGES):
            self._whole = FileBlob(self.file.fetched(), self.name)
        if self._whole is not None:
            self._whole.into(spans, buffer)
            return
        filled = 0
        for start, stop in spans:
            while start < stop:
                number = start // BLOCK
                end = min(stop, (number + 1) * BLOCK)
                data = self._block(number)
                buffer[filled : filled + end - start] = data[start - number * BLOCK : end - number * BLOCK]
                start, filled = end, filled + end - start

    def _needed(self, spans: Sequence[Span]) -> set[int]:
        """Blocks that are not here yet."""
        wanted = {n for a, b in spans if b > a for n in range(a // BLOCK, (b - 1) // BLOCK + 1)}
        return wanted - self._blocks.keys()

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            start = number * BLOCK
            self._blocks[number] = self.file.range(start, min(start + BLOCK, self.size))
            if len(self._blocks) > BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]


class HubFile:
    """One file of a repository at one commit: its size, its bytes, its place in the cache."""

    def __init__(self, repository: Repository, name: str) -> None:
        self.repository, self.name = repository, name
        self.ref = HubRef(repository.repo, name, repository.revision)
        self.root = cache_of(repository.repo)
        self.place = self.root / "snapshots" / repository.commit / name
        self._known: tuple[int, str] | None = None

    def cached(self) -> Path | None:
        """The file in the cache, if it is there."""
        return self.place if self.place.is_file() else None

    @property
    def size(self) -> int:
        """Its size in bytes, as the hub states it."""
        return self._metadata()[0]

    def _metadata(self) -> tuple[int, str]:
        """Size, and the etag that names its contents."""
        if self._known is None:
            from huggingface_hub import get_hf_file_metadata

            with explained(self.ref):
                found = get_hf_file_metadata(self._url(), timeout=TIMEOUT)
            if found.size is None or found.etag is None or not re.fullmatch(r"[\w.-]+", found.etag):
                raise HubError(f"{self.ref}: the hub states no size or no etag, without which nothing can be trusted")
            self._known = found.size, found.etag
        return self._known

    def _url(self) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repository.repo, self.name, revision=self.repository.commit, endpoint=endpoint())

    def range(self, start: int, stop: int) -> bytes:
        """A range of its bytes. Raises HubError where the hub gives something else."""
        with self._reading(start, stop) as response:
            if response.status_code != 206 and (start, stop) != (0, self.size):
                raise HubError(f"{self.ref}: the hub does not give parts of it")
            data = response.read()
        if len(data) != stop - start:
            raise HubError(f"{self.ref}: {len(data):,} bytes came, and {stop - start:,} were asked for")
        return data

    @contextmanager
    def _reading(self, start: int, stop: int) -> Iterator[Any]:
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        session: Any = get_session()
        asked = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        options = {"headers": build_hf_headers() | asked, "follow_redirects": True, "timeout": TIMEOUT}
        with explained(self.ref), session.stream("GET", self._url(), **options) as response:
            hf_raise_for_status(response)
            yield response

    def fetched(self) -> Path:
        """The file in the cache, fetched if it is not there; what an interrupted download left is gone on with."""
        if (here := self.cached()) is not None:
            return here
        size, etag = self._metadata()
        blob, partial = self.root / "blobs" / etag, self.root / "blobs" / f"{etag}.partial"
        blob.parent.mkdir(parents=True, exist_ok=True)
        if not blob.is_file():
            with partial.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # another process may be fetching the same
                if not blob.is_file():
                    self._fetch(file, size)
                    _check_sum(partial, etag, self.ref)
                    os.replace(partial, blob)
        self.place.parent.mkdir(parents=True, exist_ok=True)
        if not self.place.exists():
            self.place.symlink_to(os.path.relpath(blob, self.place.parent))
        return self.place

    def _fetch(self, file: Any, size: int) -> None:
        """Append what is missing. The hub may ignore ranges, and then sends all of it."""
        done = file.tell()
        if done > size:
            file.truncate(0)
            done = 0
        if done == size:
            return
        title, begun = f"download {self.name}", done
        with progress(title, size - begun, "bytes") as bar, self._reading(begun, size) as response:
            if response.status_code != 206:
                file.truncate(0)
                done = 0
            for chunk in response.iter_bytes(CHUNK):
                done += len(chunk)
                if done > size:
                    raise HubError(f"{self.ref}: more bytes came than the {size:,} that the hub states")
                file.write(chunk)
                bar.advance(len(chunk))
        file.flush()
        if done != size:
            raise HubError(f"{self.ref}: {done:,} of {size:,} bytes came; the same call goes on from there")


def _check_sum(path: Path, etag: str, ref: HubRef) -> None:
    """Large files are named by their SHA-256. Raises HubError, and removes the file, where it has another."""
    if not re.fullmatch(r"[0-9a-f]{64}", etag):
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != etag:
        path.unlink()
        raise HubError(f"{ref} arrived broken: its SHA-256 is {found}, not {etag}; fetch it again")


def endpoint() -> str:
    """Where the hub is."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def cache_of(repo: str) -> Path:
    """Where the cache of the hub keeps a repository."""
    from huggingface_hub import constants

    return Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE) / ("models--" + repo.replace("/", "--"))


class Unreachable(HubError):
    """The hub does not answer."""


@contextmanager
def explained(ref: HubRef) -> Iterator[None]:
    """Turns what the hub and the network say into errors that name the reference and what to do."""
    from huggingface_hub import errors

    try:
        yield
    except HubError:
        raise
    except errors.GatedRepoError:
        raise HubError(
            f"{ref.repo} is gated: accept its terms on its page, then log in with 'hf auth login' or set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise HubError(f"{ref.repo} has no revision {ref.revision!r}") from None
    except errors.EntryNotFoundError:
        raise HubError(f"{ref.repo} has no file {ref.path} at {ref.revision!r}") from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"the hub has no repository {ref.repo}, or it is private: check the name, and log in with 'hf auth login' "
            "or HF_TOKEN if it is yours"
        ) from None
    except errors.OfflineModeIsEnabled:
        raise Unreachable("HF_HUB_OFFLINE is set") from None
    except errors.HFValidationError as error:
        raise HubError(f"{ref.repo} is no name of a repository: {error}") from None
    except errors.HfHubHTTPError as error:
        said = error.server_message or str(error).splitlines()[0]
        status = error.response.status_code if error.response is not None else "?"
        kind = Unreachable if str(status).startswith("5") else HubError
        raise kind(f"the hub answers {status} for {ref}: {said}") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0].startswith("httpx"):
            raise Unreachable(f"no connection to the hub ({type(error).__name__}: {error})") from None
        raise
