"""The model card of a published dictionary: what it is, how good it is, what it cost, how to open it, how to cite it.

Every number is one that was measured, with where; what was not says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from monoscope.formats.convert import Conversion
from monoscope.formats.hub_file import HubRef

LICENSES = frozenset(
    {"apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "gpl-3.0"}
)
"""Some that the hub knows by these names; it takes any other as a license of its own."""

NOT_MEASURED, NOT_STATED = "not measured", "not stated"


def model_card(each: Sequence[Conversion], ref: HubRef, evaluation: Mapping[str, Any] | None = None) -> str:
    """Markdown with front matter, of one dictionary or of a set of one kind.

    ``evaluation``: what ``monoscope evaluate`` found of the only one, as JSON values
    """
    conversion = each[0]
    opened, receipt = conversion.source, conversion.receipt
    facts, about = opened.describe(), opened.about
    sites = " -> ".join(dict.fromkeys((", ".join(facts["reads"]), ", ".join(facts["writes"]))))
    if len(each) > 1:
        last = each[-1].source.table
        sites = f"{sites} to {' -> '.join(dict.fromkeys((*last['reads'], *last['writes'])))}"
    kind = "Sparse autoencoder" if facts["reads"] == facts["writes"] else "Transcoder"
    kinds = {"crosscoder": "Crosscoder", "cross_layer": "Cross-layer transcoder", "molt": "MOLT", "lorsa": "Lorsa"}
    named = kinds.get(facts["wiring"]["kind"], kind)
    many = f"{len(each)} dictionaries ({named.lower()})" if len(each) > 1 else named
    title = f"{many} of {about.model or 'an unnamed model'} at {sites}"
    parts = [
        _front(conversion, facts),
        f"# {title}",
        f"Written by monoscope in the layout of `{receipt.layout}`.",
        _table("What it is" if len(each) == 1 else "What each is", _what(facts, sites)),
        _table("How good it is", _quality(conversion, evaluation)) if len(each) == 1 else _qualities(each),
        _table("How it was made", _making(opened.table.get("provenance", {}), about.trained)),
        _notes(conversion),
        "## How to load it\n\n" + "\n\n".join(_snippets(conversion, ref)),
        "## How to cite it\n\n" + _bibtex(ref, title),
    ]
    return "\n\n".join(parts) + "\n"


def _front(conversion: Conversion, facts: Mapping[str, Any]) -> str:
    """YAML, each value as JSON, which YAML can read."""
    about = conversion.source.about
    front: dict[str, Any] = {"library_name": "monoscope"}
    if about.model is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", about.model):
        front["base_model"] = about.model
    if about.license is not None:
        known = about.license.lower() in LICENSES
        front |= {"license": about.license.lower()} if known else {"license": "other", "license_name": about.license}
    function = facts["function"]["kind"]
    front["tags"] = ["monoscope", "interpretability", "sparse-autoencoder", conversion.receipt.layout, function]
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---"])


def _what(facts: Mapping[str, Any], sites: str) -> dict[str, Any]:
    function = facts["function"]
    wiring = {key: value for key, value in facts["wiring"].items() if key not in ("kind", "n_features")}
    settings = ", ".join(key if value is True else f"{key} {_short(value)}" for key, value in wiring.items())
    return {
        "model": facts.get("model"),
        "sites": sites,
        "features": f"{facts['features']:,}",
        "width": ", ".join(dict.fromkeys(f"{width:,}" for width in facts["widths"].values())),
        "wiring": facts["wiring"]["kind"] + (f" ({settings})" if settings else ""),
        "function": function["kind"] + (f" (k = {function['k']:g})" if "k" in function else ""),
        "activations": f"divided by {facts['acts_scale']}, in the units of the site"
        if facts["acts_scale"] not in (1, 1.0, None)
        else "in the units of the site",
        "context": facts.get("context_length"),
        "BOS in front": facts.get("prepend_bos"),
        "positions left out": facts.get("skip_first"),
    }


def _quality(conversion: Conversion, evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """FVU, L0, dead features and loss recovered: of an evaluation, else of a check, else as published."""
    names = ("FVU", "L0", "dead features", "CE recovered", "measured")
    if evaluation is not None:
        fit, firing, losses = (evaluation[key] for key in ("fidelity", "firing", "losses"))
        text = f"on {fit['n_tokens']:,} tokens in {evaluation['n_windows']:,} windows of text not trained on"
        values = (fit["fvu"], firing["l0"], firing["dead_share"], losses["ce_recovered_zero"], text)
    elif (found := conversion.after or conversion.before) is not None:
        values = (found.fvu, found.l0, found.dead_share, None, f"on {found.n_tokens:,} tokens, while it was converted")
    else:
        published = conversion.source.about.published
        said = "by its makers" if published else None
        values = (published.get("fvu"), published.get("l0"), None, published.get("ce_recovered"), said)
    return {name: NOT_MEASURED if value is None else value for name, value in zip(names, values, strict=True)}


def _qualities(each: Sequence[Conversion]) -> str:
    """A row for every dictionary of a set."""
    rows = ["## How good they are", "", "| sites | FVU | L0 | dead features |", "|---|---|---|---|"]
    for conversion in each:
        table, found = conversion.source.table, _quality(conversion, None)
        sites = " -> ".join(dict.fromkeys((*table["reads"], *table["writes"])))
        rows.append(f"| {sites} | " + " | ".join(_cell(found[name]) for name in ("FVU", "L0", "dead features")) + " |")
    return "\n".join(rows)


def _making(provenance: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    source, training = provenance.get("source", {}), provenance.get("training", {})
    text = source.get("text")
    seconds = provenance.get("seconds")
    tokens = training.get("tokens")
    own = {
        "text": ", ".join(f"{key} {_short(value)}" for key, value in text.items()) if isinstance(text, dict) else text,
        "tokens": None if tokens is None else f"{tokens:,}",
        "training": None if seconds is None else f"{seconds / 60:,.1f} minutes",
    }
    return own | {str(key): _short(value) for key, value in trained.items()}


def _notes(conversion: Conversion) -> str:
    """What was done to it, what its layout does not say, and what was inferred."""
    about, receipt = conversion.source.about, conversion.receipt
    groups = {
        "Done in writing": receipt.steps,
        "Not said by this layout": receipt.lost,
        "Inferred in reading": list(about.inferred),
        "To know": list(conversion.warnings),
    }
    origin = [f"Opened from `{about.where}` ({conversion.source.layout})."] if about.where.startswith("hf://") else []
    parts = [*origin, *(f"{title}: {'; '.join(words)}." for title, words in groups.items() if words)]
    compared = conversion.comparison
    parts.append(
        f"Read back and compared on {compared.n_tokens:,} tokens of {compared.on}: features differ by "
        f"{compared.acts_error:.1g} of the largest, reconstructions by {compared.recon_error:.1g}."
    )
    return "\n\n".join(parts)


def _snippets(conversion: Conversion, ref: HubRef) -> list[str]:
    layout, path = conversion.receipt.layout, ref.path
    where = f'snapshot_download("{ref.repo}")' + (f' + "/{path}"' if path else "")
    download = "from huggingface_hub import snapshot_download"
    site = conversion.source.table["reads"][0]
    ours = ["import monoscope", f'dictionary = monoscope.load("{ref}")']
    found = [_code("monoscope", *ours, f"acts = dictionary.encode(x)  # x: activations at {site}, [n, d]")]
    of_layout = {
        "saelens": ("SAELens", download, "from sae_lens import SAE", f"sae = SAE.load_from_disk({where})"),
        "sparsify": (
            "sparsify",
            download,
            "from sparsify import SparseCoder",
            f'coder = SparseCoder.load_from_disk({where} + "/{_parent(conversion)}")',
        ),
        "dictionary_learning": (
            "dictionary_learning",
            download,
            "from dictionary_learning.utils import load_dictionary",
            f'dictionary, config = load_dictionary({where}, device="cpu")',
        ),
        "circuit_tracer": (
            "circuit-tracer",
            "from circuit_tracer import ReplacementModel",
            f'model = ReplacementModel.from_pretrained("{conversion.source.about.model}", "{ref.repo}")',
        ),
    }
    if layout in of_layout:
        found.append(_code(*of_layout[layout]))
    else:
        done = f"monoscope convert {ref} sae --to saelens"
        found.append(f"SAELens, where it has a class for this dictionary:\n\n```sh\n{done}\n```")
    weights = [name for name in conversion.receipt.files if name.endswith(".safetensors")]
    if weights:
        name = f"{path}/{weights[0]}".lstrip("/")
        plain = ["from huggingface_hub import hf_hub_download", "from safetensors.torch import load_file"]
        found.append(_code("PyTorch alone", *plain, f'weights = load_file(hf_hub_download("{ref.repo}", "{name}"))'))
    else:
        name = f"{path}/{conversion.receipt.files[-1]}".lstrip("/")
        load = f'weights = torch.load(hf_hub_download("{ref.repo}", "{name}"), weights_only=True)'
        found.append(_code("PyTorch alone", "import torch", "from huggingface_hub import hf_hub_download", load))
    return found


def _parent(conversion: Conversion) -> str:
    """Directory of the weights inside what was written."""
    name = next(name for name in conversion.receipt.files if name.endswith(".safetensors"))
    return name.rpartition("/")[0]


def _code(title: str, *lines: str) -> str:
    return "\n".join([f"{title}:", "", "```python", *lines, "```"])


def _bibtex(ref: HubRef, title: str) -> str:
    key = re.sub(r"\W+", "_", ref.repo).lower()
    plain = re.sub(r"[{}\\$&%#_^~]", " ", title)
    fields = {
        "title": plain,
        "author": "{" + ref.repo.partition("/")[0] + "}",
        "year": str(datetime.now(UTC).year),
        "url": f"https://huggingface.co/{ref.repo}",
    }
    return "\n".join(["```bibtex", f"@misc{{{key},", *(f"  {k} = {{{v}}}," for k, v in fields.items()), "}", "```"])


def _table(title: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {key} | {_cell(NOT_STATED if value is None else value)} |" for key, value in rows.items()]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    """One line of text that ends no cell and opens no tag."""
    return " ".join(_short(value).split()).replace("|", "\\|").replace("<", "&lt;")


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_short, value))
    return str(value)
