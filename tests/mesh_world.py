"""Processes that train the cases of ``dictionary_cases`` together, and compare with one that trains them alone.

    python mesh_world.py RANK PROCESSES RENDEZVOUS OUT

Every process runs all cases on every mesh of its world; the first writes to OUT what was found, as JSON: for each case
nothing, or what differed.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
import sys
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from dictionary_cases import WIRINGS, build, inputs, pairs, recipe
from torch import Tensor
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from monoscope import ops
from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import ConfigError
from monoscope.core.mesh import Mesh, on
from monoscope.core.site import Site
from monoscope.dictionaries import ActivationFunction, Dictionary, Recipe, Wiring
from monoscope.dictionaries.initialize import Sample
from monoscope.dictionaries.normalize import Scale
from monoscope.dictionaries.objective import Term
from monoscope.parallel.mesh import mesh_of
from monoscope.parallel.shard import shard_
from monoscope.training import Training
from monoscope.training.descent import Descent

MESHES = {2: ((1, 2), (2, 1)), 4: ((2, 2),)}
TOGETHER = frozenset({("pursuit", "matching_pursuit"), ("pursuit", "pursuit_centered"), ("group_max", "molt")})
"""Cases whose features cannot be shared out: a pursuit's, and groups of 15 across ranks of 20 and 40 transforms."""

STEPS = 3
SMALL = 600  # entries, and bytes: sums over a batch's coordinates, and flags of features


def cases() -> list[tuple[str, str]]:
    """Function and wiring of every case that is trained by descent."""
    return [p.values for p in pairs()]  # type: ignore[misc]


def name(function: str, wiring: str, mesh: tuple[int, int]) -> str:
    """A case on a mesh, as the results call it."""
    return f"{function}-{wiring}-{mesh[0]}x{mesh[1]}"


class Quadratic:
    """A model whose predictions get worse with the square of a reconstruction."""

    def divergence(self, recon: Tensor) -> Tensor:
        """Mean square over the tokens of all processes."""
        return ops.over_tokens(recon.pow(2).sum()) / ops.token_count(recon.numel())


def terms(function: str, wiring: str) -> dict[str, Term]:
    """Every term that may train a case."""
    refused = Wiring.from_dict(WIRINGS[wiring].wiring).refuses_terms
    found = {}
    for kind, known in Term.kinds().items():
        fits = known.needs_function in (None, function) and function not in known.refuses  # type: ignore[attr-defined]
        if fits and kind not in refused:
            found[kind] = Term.from_dict({"kind": kind})
    return found


def differing(what: str, found: Tensor, expected: Tensor, *, atol: float = 1e-5) -> Iterator[str]:
    """What is wrong about a tensor, if anything."""
    if found.shape != expected.shape:
        yield f"{what}: shape {list(found.shape)}, not {list(expected.shape)}"
    elif not torch.allclose(found.double(), expected.double(), rtol=1e-4, atol=atol):
        yield f"{what}: off by {(found.double() - expected.double()).abs().max():.2g}"


def losses(
    dictionary: Dictionary, x: Tensor, target: Tensor, dead: Tensor, function: str, wiring: str
) -> dict[str, Tensor]:
    """Every term of one step, by kind."""
    step = dictionary(x, target)
    step = dataclasses.replace(step, is_dead=dead, downstream=Quadratic())
    return {kind: term.value(step) for kind, term in terms(function, wiring).items()}


def check_gradients(function: str, wiring: str, mesh: Mesh) -> Iterator[str]:
    """Every term and the gradient of their sum, and its norm."""
    alone = build(function, wiring)
    x, target = inputs(wiring)
    dead = torch.zeros(alone.n_features, dtype=torch.bool)
    dead[torch.randperm(alone.n_features, generator=torch.Generator().manual_seed(5))[: alone.n_features // 4]] = True
    together = copy.deepcopy(alone)
    placed = shard_(together, mesh)
    own = x.chunk(mesh.data.size)[mesh.data.number]
    own_target = own if target is x else target.chunk(mesh.data.size)[mesh.data.number]
    expected = losses(alone, x, target, dead, function, wiring)
    torch.stack(list(expected.values())).sum().backward()
    with on(placed.shards):
        own_dead = placed.features.part(dead, mesh.features.number, mesh.features.size)
        found = losses(together, own, own_target, own_dead, function, wiring)
        torch.stack(list(found.values())).sum().backward()
    for kind, value in expected.items():
        yield from differing(f"term {kind}", found[kind].detach(), value.detach(), atol=1e-4)
    placed.reduce_gradients_(together)
    parameters = [p.grad for p in alone.parameters() if p.grad is not None]
    yield from differing("norm", placed.gradient_norm(together), torch.nn.utils.get_total_norm(parameters))
    for parameter, p in together.named_parameters():
        if p.requires_grad:
            whole = alone.get_parameter(parameter).grad
            assert p.grad is not None
            assert whole is not None
            scale = float(whole.abs().max())
            yield from differing(
                f"gradient of {parameter}", placed.gathered(parameter, p.grad), whole, atol=2e-5 * scale
            )


def check_refused(function: str, wiring: str, mesh: Mesh) -> Iterator[str]:
    """What cannot be shared out says so."""
    try:
        shard_(build(function, wiring), mesh)
    except ConfigError as error:
        if "stay together" not in str(error) and "cannot be shared out equally" not in str(error):
            yield f"another reason: {error}"
    else:
        yield "features were shared out that belong together"


def descent(dictionary: Dictionary, function: str, wiring: str, mesh: Mesh | None) -> Descent:
    """A case in training; with a mesh, the share of this process."""
    settings = Training.from_dict(
        {
            "tokens": 64 * STEPS,
            "batch_tokens": 64,
            "dead_after": 64,
            "clip": 0.1,
            "encode_dtype": "fp32",  # narrower, what is chosen among near ties depends on who chooses
            "optimizer": {"kind": "adam", "lr": 0.01, "eps": 0.1},
        }
    )
    case, chosen = WIRINGS[wiring], recipe(function, wiring)
    needed = ActivationFunction.Config.kinds()[function].needs_terms  # type: ignore[attr-defined]
    if "reconstruction" in chosen.terms and not needed:
        chosen = recipe(function, wiring, revive={"kind": "auxk", "weight": 1.0})
    placed = None if mesh is None else shard_(dictionary, mesh)
    if placed is not None:
        placed.agree_(dictionary)
    scales = {site: Scale(1.0 + 0.1 * i) for i, site in enumerate(sorted(case.widths, key=str))}
    return Descent("", chosen, settings, dictionary, scales, placed=placed)


def batches(wiring: str, mesh: Mesh) -> Iterator[ActivationBatch]:
    """Batches of a few steps, the part of this process; with a mask that is fuller for some than for others."""
    case = WIRINGS[wiring]
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        x = {
            site: torch.randn(*case.batch, width, generator=generator) * case.spread + 0.3
            for site, width in sorted(case.widths.items(), key=lambda item: str(item[0]))
        }
        counts = torch.rand(case.batch, generator=generator) < torch.linspace(0.5, 1, case.batch[0]).view(
            -1, *([1] * (len(case.batch) - 1))
        )
        part = [t.chunk(mesh.data.size)[mesh.data.number] for t in (*x.values(), counts)]
        yield ActivationBatch(dict(zip(x, part, strict=False)), mask=part[-1])


def check_training(function: str, wiring: str, mesh: Mesh) -> Iterator[str]:
    """Weights, ages and measurements after a few steps."""
    alone = descent(build(function, wiring), function, wiring, None)
    together = descent(build(function, wiring), function, wiring, mesh)
    found: dict[str, float] = {}
    for number, (whole, own) in enumerate(zip(batches(wiring, Mesh()), batches(wiring, mesh), strict=True)):
        alone.advance(whole, number)
        with on(together.placed.shards if together.placed else None):
            together.advance(own, number)
            found = together.metrics()
    for key, value in alone.metrics().items():
        yield from differing(f"metric {key}", torch.tensor(found[key]), torch.tensor(value), atol=1e-4)
    assert together.placed is not None
    yield from differing("age", together.placed.whole(together.health.age, together.placed.features), alone.health.age)
    after, expected = together.whole().state_dict(), alone.dictionary.state_dict()
    for key, value in expected.items():
        yield from differing(f"{key} after {STEPS} steps", after[key], value, atol=1e-4)
    done, alike = together.finished().state_dict(), alone.finished().state_dict()
    for key, value in alike.items():
        yield from differing(f"finished {key}", done[key], value, atol=1e-4 * float(value.abs().max()) + 1e-6)


def check_traffic(mesh: Mesh) -> Iterator[str]:
    """What a step hands to collectives beside what the plan of ``benchmarks`` says: no feature dead, and with AuxK."""
    n, d, n_features, k, k_aux = 512, 64, 2048, 8, 8
    job = scale_plan().Job(n_features, d, k, n, mesh.data.size, mesh.features.size)
    for each, dead_after in ((job, 10 * n), (dataclasses.replace(job, k_aux=k_aux), n)):
        yield from _unplanned(each, dead_after, mesh)


def _unplanned(job: Any, dead_after: int, mesh: Mesh) -> Iterator[str]:
    given: dict[tuple[str, str], list[int]] = {}
    groups = {mesh.data.group: "data", mesh.features.group: "features"}

    def counting(kind: str, real: Any) -> Any:
        def call(*arguments: Any, group: Any, **rest: Any) -> None:
            sent = arguments[-1]
            if sent.numel() > SMALL and group in groups:
                given.setdefault((groups[group], kind), []).append(sent.numel() * sent.element_size())
            real(*arguments, group=group, **rest)

        return call

    settings = Training.from_dict({"tokens": job.tokens, "batch_tokens": job.tokens, "dead_after": dead_after})
    site = Site.parse("x:out")
    chosen = Recipe.from_dict(
        {"wiring": {"kind": "autoencoder", "n_features": job.n_features}, "function": {"kind": "topk", "k": job.k}}
    )
    dictionary = chosen.build((site,), (site,), {site: job.d})
    x = torch.randn(job.tokens, job.d, generator=torch.Generator().manual_seed(0))
    dictionary.initialize_(chosen.initialize, Sample.of(x, x), torch.Generator().manual_seed(0))
    run = Descent("", chosen, settings, dictionary, {site: Scale(1.0)}, placed=shard_(dictionary, mesh))
    batch = ActivationBatch({site: x.chunk(mesh.data.size)[mesh.data.number]})
    real = dist.all_reduce, dist.all_gather
    dist.all_reduce, dist.all_gather = counting("all-reduce", real[0]), counting("all-gather", real[1])
    try:
        with run.here():
            run.advance(batch, 0)
    finally:
        dist.all_reduce, dist.all_gather = real
    planned: dict[tuple[str, str], list[int]] = {}
    for each in scale_plan().traffic(job):
        if each.bytes > SMALL:
            planned.setdefault((each.axis, each.kind), []).append(each.bytes)
    for key in planned.keys() | given.keys():
        if sum(planned.get(key, [])) != sum(given.get(key, [])):
            yield f"{key}: the plan says {planned.get(key)}, and {given.get(key)} were sent"


def scale_plan() -> Any:
    """The plan's own module."""
    path = Path(__file__).parents[1] / "benchmarks" / "scale_plan.py"
    spec = importlib.util.spec_from_file_location("scale_plan", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault("scale_plan", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


def main(rank: int, processes: int, rendezvous: str, out: str) -> None:
    """Run all cases."""
    torch.set_num_threads(1)
    timeout = timedelta(seconds=60)
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=processes, timeout=timeout)
    results = {}
    for shape in MESHES[processes]:
        mesh = mesh_of(init_device_mesh("cpu", shape, mesh_dim_names=("data", "features")))
        results[name("traffic", "autoencoder", shape)] = "; ".join(check_traffic(mesh))
        for function, wiring in cases():
            try:
                if (function, wiring) in TOGETHER and shape[1] > 1:
                    wrong = [*check_refused(function, wiring, mesh)]
                else:
                    wrong = [*check_gradients(function, wiring, mesh), *check_training(function, wiring, mesh)]
            except Exception:
                wrong = [traceback.format_exc()]
                results[name(function, wiring, shape)] = "; ".join(wrong)
                if "-v" in sys.argv:
                    print(rank, name(function, wiring, shape), wrong[0], flush=True)
                    dist.barrier()
                    continue
                break
            results[name(function, wiring, shape)] = "; ".join(wrong)
            if "-v" in sys.argv and wrong and rank == 0:
                print(name(function, wiring, shape), wrong, flush=True)
    if rank == 0:
        Path(out).write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
