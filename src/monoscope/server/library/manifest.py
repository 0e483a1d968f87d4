"""A bundle's manifest, checked: everything the server shows of it has the type it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from monoscope.core.errors import DataError
from monoscope.core.io import MANIFEST
from monoscope.features.bundle import FeatureBundle
from monoscope.server.library.discover import is_inside

MAX_FEATURES = 16_777_216


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class SourcePart(_Part):
    """Files in the layout of another library, of which a dictionary was opened: ``entry`` is which of a set."""

    where: str = Field(max_length=4096)
    entry: str = Field(default="", max_length=4096)
    layout: str = Field(max_length=100)
    chosen: dict[str, str] = Field(default={}, max_length=100)


class DictionaryPart(_Part):
    """The dictionary that was analyzed."""

    fingerprint: str = Field(max_length=200)
    wiring: str = Field(max_length=200)
    function: str = Field(max_length=200)
    n_features: int = Field(ge=0, le=MAX_FEATURES)
    d_model: int | None = Field(ge=0)
    k: int | None = None
    reads: list[str] = Field(max_length=10_000)
    writes: list[str] = Field(max_length=10_000)
    source: SourcePart | str | None = None  # a name, where another tool made the bundle


class ModelPart(_Part):
    """The model it is of."""

    id: str | None = Field(default=None, max_length=4096)
    fingerprint: str | None = None


class DataPart(_Part):
    """The text it was analyzed on."""

    n_tokens: int = Field(ge=0)


class IntervalPart(_Part):
    """The rule of intervals."""

    n: int = Field(ge=0, le=1000)


class FilePart(_Part):
    """One file."""

    path: str = Field(max_length=1000)
    bytes: int = Field(ge=0)


class Manifest(_Part):
    """The keys the server relies on; the rest is shown as it is."""

    fingerprint: str = Field(max_length=200)
    created: str | None = None
    dictionary: DictionaryPart
    model: ModelPart
    data: DataPart
    intervals: IntervalPart
    stats: dict[str, float | None]
    files: list[FilePart] = Field(max_length=100_000)


def open_bundle(path: Path, root: Path) -> tuple[FeatureBundle, Manifest]:
    """A bundle whose manifest is sound and whose files stand inside ``root``. Raises DataError with the reason."""
    try:
        bundle = FeatureBundle.open(path)
        manifest = Manifest.model_validate(bundle.manifest)
    except ValidationError as error:
        raise DataError(f"{path / MANIFEST}: {_first(error)}") from None
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path / MANIFEST} is not laid out as a bundle's: {type(error).__name__} at {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    for file in manifest.files:
        if not is_inside(path / file.path, path) and not is_inside(path / file.path, root):
            raise DataError(f"{path / MANIFEST} names {file.path!r}, which lies outside of {root}")
    return bundle, manifest


def _first(error: ValidationError) -> str:
    fault: Any = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}, found {str(fault.get('input'))[:100]!r}"
