"""Every recipe of ``recipes/`` on the bundled model, each beside a simpler alternative at the same L0.

    python benchmarks/bench_recipes.py [NAME ...] [--set KEY=VALUE] [--work DIR] [--write]

A recipe and its alternatives are trained in one pass over the same text, then measured on the same held-out windows.
What is finished is kept in ``--work``: run again to go on. Alternatives are tables of a sweep; where several are named
for one recipe they stand for it together, and are spliced in together.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monoscope.cli.configs import TrainConfig, merged
from monoscope.core.config import override, read_toml
from monoscope.core.io import write_json, write_text
from monoscope.core.site import Site
from monoscope.dictionaries import Crosscoder, Dictionary, load
from monoscope.dictionaries.trajectories import emergence
from monoscope.evals.metrics import Fidelity
from monoscope.harvest import StandardLibrary, TokenWindows
from monoscope.interventions import patch
from monoscope.models import LanguageModel
from monoscope.training import train
from monoscope.training.checkpoint import checkpoints
from monoscope.training.train import is_complete

ROOT = Path(__file__).parents[1]
RESULT = "result.json"
LAYERS = range(4)
KINDS = ("resid_post", "attn_out", "mlp_out")
USUAL = {"training": {"optimizer": {"lr": 6e-3}}}
ALONE = {"terms": {"predictions": {"kind": "end_to_end", "weight": 0.0}}}


def topk(k: int, **wiring: Any) -> dict[str, Any]:
    """A plain TopK autoencoder or transcoder."""
    wiring = {"kind": "autoencoder", "n_features": 1536, "skip": False} | wiring
    return {"wiring": wiring, "function": {"kind": "topk", "k": k}}


@dataclass(frozen=True)
class Comparison:
    """A recipe's simpler alternative: what it is called, and the dictionaries that together are it."""

    recipe: str
    title: str
    alternative: str
    entries: dict[str, dict[str, Any]]


def at(read: str, recipe: dict[str, Any], write: str | None = None) -> dict[str, Any]:
    """An entry of a sweep between sites."""
    return {"reads": [read], "writes": [write or read], "recipe": recipe}


SAE, SIMPLER = "autoencoder, BatchTopK", "autoencoder, TopK"
SNAPSHOTS = ("57k", "123k", "246k", "500k", "1M", "2M", "26M")
COMPARISONS = (
    *(Comparison(f"sae.{kind}", SAE, SIMPLER, {kind: at(f"2.{kind}", topk(32))}) for kind in KINDS),
    Comparison("transcoder", "transcoder", "autoencoder of the MLP's output", {"a": at("2.mlp_out", topk(32))}),
    Comparison("skip_transcoder", "skip transcoder", "transcoder", {"a": at("2.mlp_in", topk(32), "2.mlp_out")}),
    Comparison(
        "crosscoder_layers",
        "crosscoder over layers",
        "an autoencoder for each layer, k = 8",
        {f"L{layer}": at(f"{layer}.resid_post", topk(8)) | USUAL for layer in LAYERS},
    ),
    Comparison(
        "crosscoder_snapshots",
        "crosscoder over snapshots",
        "an autoencoder for each snapshot, k = 5",
        {label: at(f"2.resid_post@{label}", topk(5)) | USUAL for label in SNAPSHOTS},
    ),
    Comparison(
        "clt",
        "cross-layer transcoder",
        "a transcoder for each layer, k = 16",
        {f"L{n}": at(f"{n}.mlp_in", topk(16, n_features=768), f"{n}.mlp_out") for n in LAYERS},
    ),
    Comparison(
        "molt",
        "MOLT, 62 transforms",
        "transcoder of as many parameters",
        {"a": at("2.mlp_in", topk(8, n_features=960), "2.mlp_out")},
    ),
    *(
        Comparison(f"lorsa.L{n}", "Lorsa", SIMPLER, {f"L{n}": at(f"{n}.attn_out", topk(32, n_features=768))})
        for n in LAYERS
    ),
    Comparison("itda", "ITDA", SIMPLER, {"a": at("2.resid_post", topk(32))}),
    Comparison(
        "end_to_end", "autoencoder, end to end", "without the term", {"a": at("1.resid_post", topk(32) | ALONE)}
    ),
)


def files(names: Sequence[str]) -> dict[str, list[Comparison]]:
    """Comparisons by the recipe file they are about."""
    found: dict[str, list[Comparison]] = {}
    for one in COMPARISONS:
        found.setdefault(one.recipe.partition(".")[0], []).append(one)
    return {name: found[name] for name in names or found}


def settings_of(name: str, comparisons: Sequence[Comparison], changes: Sequence[str]) -> TrainConfig:
    """A recipe file, with its alternatives in the same sweep."""
    table = override(read_toml(ROOT / "recipes" / f"{name}.toml"), changes)
    sweep = dict(table.get("sweep", {"recipe": {}}))
    for one in comparisons:
        sweep |= {f"alternative.{key}": entry for key, entry in one.entries.items()}
    return TrainConfig.from_dict(merged(table, {"sweep": sweep}))


class Joint:
    """Dictionaries on the same tokens, all spliced in at once; reconstructions are of what the model has by itself."""

    def __init__(self, dictionaries: Sequence[Dictionary], means: dict[Site, Tensor]) -> None:
        self.dictionaries, self.means = dictionaries, means
        self.sites = [site for dictionary in dictionaries for site in dictionary.writes]
        self.fidelity = {site: Fidelity(len(means[site])) for site in self.sites}
        self.l0, self.n, self.n_losses = 0.0, 0, 0
        self.fired = [torch.zeros(dictionary.n_features, dtype=torch.bool) for dictionary in dictionaries]
        self.losses = {"clean": 0.0, "spliced": 0.0, "mean": 0.0}

    def update(self, batch: Any, lm: LanguageModel | None) -> None:
        """Add a batch of windows."""
        donors = {}
        for dictionary, fired in zip(self.dictionaries, self.fired, strict=True):
            x, target = dictionary.gather(batch)
            step = dictionary(x, target, batch.mask)
            self.l0 += step.acts.l0().double().sum().item()
            fired |= step.acts.fired()
            recons, targets = (
                value.unbind(-2) if len(dictionary.writes) > 1 else [value] for value in (step.recon, step.target)
            )
            for site, recon, was in zip(dictionary.writes, recons, targets, strict=True):
                self.fidelity[site].update(was, recon)
                donors[site] = (recon, self.means[site].to(recon).expand_as(recon))
        self.n += int(batch.mask.sum())
        if lm is None:
            return
        predicts = batch.mask[:, :-1] & batch.mask[:, 1:]
        wanted = batch.tokens[:, 1:][predicts].long()
        self.n_losses += len(wanted)

        def loss() -> float:
            logits = lm.logits(batch.tokens.long())[:, :-1][predicts]
            return torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()

        self.losses["clean"] += loss()
        for which, name in enumerate(("spliced", "mean")):
            edits = []
            for site, pair in donors.items():
                donor = batch.activations[site].clone()
                donor[batch.mask] = pair[which]
                edits.append(patch(site, donor))
            with lm.edit(*edits):
                self.losses[name] += loss()

    def result(self) -> dict[str, Any]:
        """FVU at each site and their mean, L0 of all, share of silent features, and what splicing costs."""
        by_site = {str(site): self.fidelity[site].result().fvu for site in self.sites}
        row: dict[str, Any] = {
            "fvu": sum(by_site.values()) / len(by_site),
            "by_site": by_site,
            "l0": self.l0 / self.n,
            "features": sum(dictionary.n_features for dictionary in self.dictionaries),
            "dead": (~torch.cat(self.fired)).double().mean().item(),
        }
        if self.n_losses:
            clean, spliced, mean = (self.losses[name] / self.n_losses for name in ("clean", "spliced", "mean"))
            row |= {"ce_added": spliced - clean, "ce_recovered": (mean - spliced) / (mean - clean)}
        return row

    def emergence(self) -> dict[str, int]:
        """Features of a crosscoder over models that fire, by the model where their norm reaches half of its largest."""
        (one, *others), fired = self.dictionaries, self.fired[0]
        if others or not isinstance(one, Crosscoder) or not one.writes[0].model:
            return {}
        first = emergence(one.site_norms())[fired]
        return {site.model: int((first == at).sum()) for at, site in enumerate(one.writes)}


@torch.no_grad()
def measure(
    settings: TrainConfig, groups: dict[str, list[Dictionary]], windows: TokenWindows, lms: dict[str, LanguageModel]
) -> dict[str, dict[str, Any]]:
    """Results of each group of dictionaries, read in one pass over held-out windows."""
    sites = {site for group in groups.values() for one in group for site in (*one.reads, *one.writes)}
    source = settings.source(lms, windows, sorted(sites))
    sums, n = {site: torch.zeros(source.widths[site]) for site in sites}, 0
    for batch in source:
        flat = batch.flat()
        n += flat.n_tokens
        for site in sites:
            sums[site] += flat.activations[site].sum(0)
    means = {site: total / n for site, total in sums.items()}
    joint = {name: Joint(group, means) for name, group in groups.items()}
    for batch in source:
        for one in joint.values():
            one.update(batch, lms.get(""))
    return {name: one.result() | {"emergence": one.emergence()} for name, one in joint.items()}


def run(name: str, comparisons: Sequence[Comparison], work: Path, changes: Sequence[str], held_out: int) -> None:
    """Train and measure one recipe, unless its result is there already."""
    out, settings = work / name, settings_of(name, comparisons, changes)
    configured = json.loads(json.dumps(settings.to_dict()))
    if (out / RESULT).is_file() and json.loads((out / RESULT).read_text())["settings"] == configured:
        return
    runs = settings.runs()
    source, lm = settings.open()
    if not all(is_complete(out / key) for key in runs):
        train(
            [one.recipe for one in runs.values()],
            source,
            reads=[one.reads for one in runs.values()],
            writes=[one.writes for one in runs.values()],
            training=[one.training for one in runs.values()],
            names=list(runs),
            lm=lm,
            out=out,
            resume=bool(checkpoints(out)),
            force=not checkpoints(out),
        )
    groups, rows = {}, {}
    for one in comparisons:
        own = one.recipe.partition(".")[2] or "recipe"
        groups[one.recipe] = [load(out / own)]
        groups[f"{one.recipe} alternative"] = [load(out / f"alternative.{key}") for key in one.entries]
    lms = settings.language_models()
    windows = StandardLibrary(split="held_out").windows(next(iter(lms.values())), tokens=held_out)
    found = measure(settings, groups, windows, lms)
    for one in comparisons:
        rows[one.recipe] = {
            "title": one.title,
            "alternative": one.alternative,
            "recipe": found[one.recipe],
            "simpler": found[f"{one.recipe} alternative"],
        }
    result = {"settings": configured, "tokens": settings.training.tokens, "held_out": held_out, "rows": rows}
    write_json(out / RESULT, result)


def main() -> None:
    """Run what is asked for, then write the page and the numbers of all that are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--set", action="append", default=[], help="a key of every recipe, as training.tokens=10000")
    parser.add_argument("--held-out", type=int, default=10_000, help="tokens to measure on")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "recipes")
    parser.add_argument("--write", action="store_true", help="write docs/reference/recipes.md and the numbers")
    args = parser.parse_args()
    for name, comparisons in files(args.names).items():
        run(name, comparisons, args.work, args.set, args.held_out)
        print(name, json.dumps(json.loads((args.work / name / RESULT).read_text())["rows"]), flush=True)
    finished = {name: args.work / name / RESULT for name in files([])}
    results = {name: json.loads(path.read_text()) for name, path in finished.items() if path.is_file()}
    numbers = {name: {k: v for k, v in result.items() if k != "settings"} for name, result in results.items()}
    if args.write:
        write_json(ROOT / "benchmarks" / "results" / "bench_recipes.json", numbers)
        write_text(ROOT / "docs" / "reference" / "recipes.md", page(results))
    else:
        print(page(results))


def page(results: dict[str, Any]) -> str:
    """What each recipe gives, beside its alternative, in Markdown."""
    held_out = sorted({result["held_out"] for result in results.values()})
    lines = [
        HEAD.format(held_out=" to ".join(f"{n:,}" for n in dict.fromkeys((held_out[0], held_out[-1])))),
        "| recipe | dictionary | tokens | F | L0 | FVU | CE recovered | CE added, nats | silent |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, result in results.items():
        for recipe, row in result["rows"].items():
            link = f"[{recipe}](../../recipes/{name}.toml)"
            lines.append(f"| {link} | {row['title']} | {result['tokens']:,} | {_cells(row['recipe'])} |")
            lines.append(f"| | *{row['alternative']}* | | {_cells(row['simpler'])} |")
    for name in sorted(files([]).keys() - results.keys()):
        lines.append(f"| [{name}](../../recipes/{name}.toml) | not measured here | | | | | | | |")
    text = "\n".join(lines) + "\n"
    if (found := results.get("crosscoder_snapshots")) is not None:
        text += _emergence(found)
    return text


HEAD = """# Recipes and what they give

Each recipe is a file, run by `monoscope train`; beside it stands a simpler alternative at the same L0, trained in the
same pass on the same text, and measured on {held_out} held-out tokens of the bundled model. One seed and short runs:
small differences mean nothing. `python benchmarks/bench_recipes.py --write` makes this page.

Tokens: trained on. F: features in all. L0: of all that fire on a token. FVU: mean over the sites that are written. CE
recovered: share of what the mean in the place of all these sites costs, with all reconstructions in place at once, each
of what the model has there by itself. Silent: features that fire on none of the held-out tokens.
"""


def _cells(row: dict[str, Any]) -> str:
    recovered = f"{row['ce_recovered']:.1%}" if "ce_recovered" in row else "-"
    added = f"{row['ce_added']:.3f}" if "ce_added" in row else "-"
    numbers = [f"{row['features']:,}", f"{row['l0']:.1f}", f"{row['fvu']:.3f}", recovered, added, f"{row['dead']:.1%}"]
    return " | ".join(numbers)


def _emergence(result: dict[str, Any]) -> str:
    found = result["rows"]["crosscoder_snapshots"]["recipe"]["emergence"]
    labels = list(found)
    lines = [
        "\n## When features emerge\n",
        "Features of the crosscoder over snapshots that fire on the held-out tokens, by the first snapshot, after so",
        "many tokens of pretraining, at which their decoder norm reaches half of its largest.\n",
        "| | " + " | ".join(labels) + " |",
        "|---|" + "---:|" * len(labels),
        "| features | " + " | ".join(f"{found[label]:,}" for label in labels) + " |",
    ]
    for title, which in (("FVU of the crosscoder", "recipe"), ("FVU of its own autoencoder", "simpler")):
        by_site = result["rows"]["crosscoder_snapshots"][which]["by_site"].values()
        lines.append(f"| {title} | " + " | ".join(f"{value:.3f}" for value in by_site) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
