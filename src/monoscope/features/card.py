"""The card of a bundle: a README that says what it is, how good the dictionary is, and how to open it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def card(facts: Mapping[str, Any]) -> str:
    """Markdown with front matter, from the manifest's facts. What was not measured says so."""
    dictionary, model, data, stats = (facts[key] for key in ("dictionary", "model", "data", "stats"))
    name = model["id"] or "an unnamed model"
    site = ", ".join(dictionary["writes"])
    rows = [
        ("features", f"{dictionary['n_features']:,}"),
        ("wiring, function", f"{dictionary['wiring']}, {dictionary['function']}{_k(dictionary)}"),
        ("FVU", _number(stats["fvu"])),
        ("L0", _number(stats["l0"])),
        ("CE recovered", _number(stats["ce_recovered"])),
        ("dead share", _number(stats["dead_share"])),
        ("tokens analyzed", f"{data['n_tokens']:,} in {data['n_sequences']:,} sequences"),
        ("text", _text(data["dataset"])),
        ("license", facts["license"] or "not stated"),
    ]
    table = "\n".join(f"| {key} | {value} |" for key, value in rows)
    return f"""---
library_name: monoscope
tags: [monoscope, features, {dictionary["function"]}]
base_model: {name}
---
# Features of {name} at {site}

| | |
|---|---|
{table}

```python
from monoscope.features import FeatureBundle
bundle = FeatureBundle.open("path/to/this/directory")
print(bundle.feature(0))
```
"""


def _k(dictionary: Mapping[str, Any]) -> str:
    return "" if dictionary["k"] is None else f" (k = {dictionary['k']})"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _text(dataset: Any) -> str:
    if isinstance(dataset, Mapping):
        return ", ".join(f"{key} {value}" for key, value in dataset.items())
    return str(dataset) if dataset else "not stated"
