"""What feature bundles are converted to, and from: ``monoscope convert SRC DST --to TARGET``.

html                 one self-contained page; DST is the file
saedashboard, neuronpedia, neuronpedia_upload, feature_json, feature_binary       directories for other tools
monoscope            a bundle, of another tool's directory
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monoscope.core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from monoscope.features import FeatureBundle
    from monoscope.features.exchange import Said
    from monoscope.features.workspace import Workspace

TARGETS = ("html", "saedashboard", "neuronpedia", "neuronpedia_upload", "feature_json", "feature_binary")
BUNDLE = "monoscope"
RULES = ("features", "list", "workspace")


def is_bundle(ref: str) -> bool:
    """Whether a feature bundle stands at a reference."""
    manifest = Path(ref) / "manifest.json"
    try:
        return json.loads(manifest.read_text(encoding="utf-8")).get("schema") == "monoscope.features"
    except (OSError, ValueError, AttributeError):
        return False


def is_foreign(ref: str) -> bool:
    """Whether features as another tool writes them stand at a reference."""
    if not Path(ref).is_dir():
        return False
    from monoscope.features.exchange import recognize

    return recognize(ref) is not None


def adopt_bundle(source: Path, destination: Path, target: str, *, force: bool) -> dict[str, Any]:
    """Make a bundle of another tool's directory. Raises ConfigError for another target than a bundle."""
    from monoscope.features.exchange import adopt, recognize

    if target != BUNDLE:
        raise ConfigError(f"{source} holds features as {recognize(source)} writes them; --to {BUNDLE} reads them")
    bundle = adopt(source, destination, force=force)
    return {
        "bundle": str(destination),
        "features": len(bundle),
        "from": recognize(source),
    }


def convert_bundle(
    path: Path, destination: Path, target: str, choices: Mapping[str, str], *, force: bool
) -> dict[str, Any]:
    """Write a bundle in another form.

    choices: ``features=1,5,9``, or ``list=NAME``, which a workspace holds; ``workspace=FILE`` gives labels too

    Raises ConfigError for a form or a choice there is not.
    """
    from monoscope.core.io import refuse_existing
    from monoscope.features import FeatureBundle
    from monoscope.features.exchange import export

    if target not in TARGETS:
        raise ConfigError(f"{path} is a feature bundle, and is not written as {target!r}; {nearest(target, TARGETS)}")
    if unknown := sorted(choices.keys() - {*RULES}):
        raise ConfigError(f"a bundle leaves no choice of {unknown[0]!r}; {nearest(unknown[0], RULES)}")
    refuse_existing(destination, force=force)
    bundle = FeatureBundle.open(path)
    shown, said = _chosen(bundle, choices)
    features = shown.get("features")
    if target == "html":
        from monoscope.features.page import write_page

        write_page(destination, bundle, **shown)
        return {"page": str(destination.resolve()), "features": "the best" if features is None else len(features)}
    lost = export(bundle, destination, target, features, said, force=force)
    n = len(bundle) if features is None else len(features)
    return {"wrote": str(destination), "features": n, "explanations": sum(map(len, said.values())), "lost": list(lost)}


def _chosen(bundle: FeatureBundle, choices: Mapping[str, str]) -> tuple[dict[str, Any], dict[int, list[Said]]]:
    """What a page shows, and explanations: those of a workspace, or of the bundle itself where none is named."""
    from monoscope.features.exchange import Said, told

    shown: dict[str, Any] = {}
    if "features" in choices:
        parts = choices["features"].split(",")
        if not all(part.strip().isdigit() for part in parts):
            raise ConfigError(f"features are numbers, as in features=1,5,9; found {choices['features']!r}")
        shown["features"] = [int(part) for part in parts]
    if "workspace" not in choices:
        if "list" in choices:
            raise ConfigError("a list is in a workspace: name it too, as in --choose workspace=workspace.db")
        return shown, {index: list(own) for index, own in told(bundle).items()}
    from monoscope.features.workspace import Workspace
    from monoscope.features.workspace.connect import refuse_missing

    refuse_missing(choices["workspace"])
    fingerprint = bundle.manifest["dictionary"]["fingerprint"]
    with Workspace.open(choices["workspace"]) as workspace:
        if "list" in choices:
            shown = _of_list(workspace, choices["list"], fingerprint)
        shown["labels"] = {feature: label.text for feature, label in workspace.labels.all(fingerprint).items()}
        said: dict[int, list[Said]] = {}
        after = ""
        while rows := workspace.explanations.page(after=after, limit=1000, dictionary_fp=fingerprint):
            after = rows[-1].id
            for row in rows:
                scores = tuple((score.scorer, score.value) for score in workspace.scores.of(row.id))
                said.setdefault(row.feature, []).append(Said(row.text, row.method, row.judge or "", scores))
    return shown, said


def _of_list(workspace: Workspace, name: str, fingerprint: str) -> dict[str, Any]:
    from monoscope.features.page.listed import of_list

    found = workspace.lists.page(name=name)
    if not found:
        known = [row.name for row in workspace.lists.page()]
        raise ConfigError(f"the workspace has no list {name!r}; {nearest(name, known) if known else 'it has none'}")
    shown = of_list(workspace, found[0], fingerprint)
    if not shown["features"]:
        raise ConfigError(f"the list {name!r} holds no feature of this dictionary")
    return shown


def drafts(
    bundle: FeatureBundle, said: Iterable[tuple[int, Said]]
) -> Iterator[tuple[Any, Sequence[tuple[str, float]]]]:
    """Explanations of a bundle's features, and their scores, as a workspace takes them in."""
    from pydantic import ValidationError

    from monoscope.core.errors import DataError
    from monoscope.features.workspace.records import ExplanationDraft

    fingerprint = bundle.manifest["dictionary"]["fingerprint"]
    for index, its in said:
        if not 0 <= index < len(bundle):
            raise DataError(f"feature {index} is explained, and the bundle has 0 to {len(bundle) - 1}")
        whole = {"dictionary_fp": fingerprint, "feature": index, "text": its.text}
        try:
            draft = ExplanationDraft(**whole, method=its.method or "imported", judge=its.model or None)
        except ValidationError as error:
            raise DataError(f"the explanation of feature {index} cannot be kept: {error.errors()[0]['msg']}") from None
        yield draft, its.scores
