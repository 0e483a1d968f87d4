"""What a training step sends over each link and holds in each process, computed; and where links become the limit.

    python benchmarks/scale_plan.py                  the plan for 1M features x an 8B model x 64 GPUs, as Markdown
    python benchmarks/scale_plan.py --features-axis 16 --tokens 65536

``tests/conformance/test_mesh.py`` compares these formulas with what real processes hand to their collectives. A ring
sends 2 (p - 1) / p of the bytes of an all-reduce out of each of p processes, and (p - 1) times its own share in an
all-gather.

Shapes: F features, d width, N tokens of a step on all processes, k kept per token; D data and S features processes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

FLOAT = 4


@dataclass(frozen=True)
class Job:
    """A TopK autoencoder in training on a mesh, reading from a language model.

    k_aux: slots of AuxK while features are dead; 0: none are
    """

    n_features: int
    d: int
    k: int
    tokens: int
    data: int = 1
    features: int = 1
    k_aux: int = 0
    d_read: int = 0  # width of what the processes of the features axis read for each other; 0: nothing

    @property
    def own_tokens(self) -> int:
        """Tokens of a process."""
        return self.tokens // self.data

    @property
    def own_features(self) -> int:
        """Features of a process."""
        return self.n_features // self.features


@dataclass(frozen=True)
class Traffic:
    """Bytes that one process hands to collectives in a step, by what they are for."""

    axis: str
    kind: str
    what: str
    bytes: int

    def sent(self, size: int) -> float:
        """Bytes that leave a process, of ``size`` on the axis."""
        if size == 1:
            return 0.0
        return self.bytes * (2 * (size - 1) / size if self.kind == "all-reduce" else size - 1)


def traffic(job: Job) -> list[Traffic]:
    """What a step of an autoencoder of one site hands to collectives, small numbers left out."""
    n, own, d = job.own_tokens, job.own_features, job.d
    found = []
    if job.features > 1:
        found += [
            Traffic("features", "all-gather", "scores of candidates", n * min(job.k, own) * FLOAT),
            Traffic("features", "all-reduce", "reconstructions", n * d * FLOAT),
        ]
        if job.k_aux:
            found += [
                Traffic("features", "all-gather", "scores of dead features", n * min(job.k_aux, own) * FLOAT),
                Traffic("features", "all-reduce", "reconstructions by dead features", n * d * FLOAT),
            ]
        if job.d_read:
            found.append(Traffic("features", "all-gather", "activations read", n * job.d_read * FLOAT // job.features))
    if job.data > 1:
        found += [
            Traffic("data", "all-reduce", "gradients", (2 * d + 1) * own * FLOAT),
            Traffic("data", "all-reduce", "which features fired", own),
        ]
    return found


def memory(job: Job) -> dict[str, float]:
    """Bytes that a process holds, by what they are for."""
    parameters = (2 * job.d + 1) * job.own_features * FLOAT
    return {
        "weights": parameters,
        "gradients": parameters,
        "Adam's two averages": 2 * parameters,
        "activations and reconstructions": 6 * job.own_tokens * job.d * FLOAT,
        "candidates": 3 * job.own_tokens * min(job.k, job.own_features) * 2 * FLOAT,
    }


@dataclass(frozen=True)
class Cluster:
    """Links and arithmetic of a machine, in bytes/s and FLOP/s of one GPU; not measured here but as their makers say.

    near: links inside a node of ``node`` GPUs; far: those between nodes
    """

    node: int = 8
    near: float = 450e9
    far: float = 50e9
    flops: float = 400e12
    memory: float = 80e9


def seconds(job: Job, cluster: Cluster, model_parameters: float) -> dict[str, float]:
    """Time of a step in each part, were nothing to overlap; processes of the features axis are neighbors."""
    links = {"features": cluster.near if job.features <= cluster.node else cluster.far, "data": cluster.far}
    if job.data * job.features <= cluster.node:
        links["data"] = cluster.near
    sent = {"features": 0.0, "data": 0.0}
    for each in traffic(job):
        sent[each.axis] += each.sent(job.data if each.axis == "data" else job.features)
    processes = job.data * job.features
    return {
        "model": 2 * model_parameters * job.tokens / processes / cluster.flops,
        "encoder": 2 * job.own_tokens * job.d * job.own_features / cluster.flops,
        "features axis": sent["features"] / links["features"],
        "data axis": sent["data"] / links["data"],
    }


def plan(job: Job, cluster: Cluster, model_parameters: float) -> str:
    """The plan as Markdown."""
    lines = [
        f"### {job.data} x {job.features} (data x features), {job.tokens:,} tokens a step",
        "",
        "| axis | collective | what | a process gives, MB | a process sends, MB |",
        "|---|---|---|---|---|",
    ]
    for each in traffic(job):
        size = job.data if each.axis == "data" else job.features
        lines.append(
            f"| {each.axis} | {each.kind} | {each.what} | {each.bytes / 1e6:,.0f} | {each.sent(size) / 1e6:,.0f} |"
        )
    held = memory(job)
    held_text = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in held.items())
    times = seconds(job, cluster, model_parameters)
    lines += [
        "",
        f"Memory of a process: {sum(held.values()) / 1e9:.1f} GB ({held_text}); and the model's "
        f"{2 * model_parameters / 1e9:.1f} GB.",
        "",
        "| " + " | ".join(times) + " |",
        "|" + "---|" * len(times),
        "| " + " | ".join(f"{1e3 * value:.0f} ms" for value in times.values()) + " |",
        "",
    ]
    return "\n".join(lines)


def bound(job: Job, cluster: Cluster, model_parameters: float) -> int | None:
    """Fewest tokens of a step (by doubling) at which arithmetic takes longer than links; None where it never does."""
    tokens = job.data
    while tokens <= 2**24:
        times = seconds(Job(**{**vars(job), "tokens": tokens}), cluster, model_parameters)
        if times["model"] + times["encoder"] > times["features axis"] + times["data axis"]:
            return tokens
        tokens *= 2
    return None


def main() -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-features", type=int, default=2**20)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=2**16)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--features-axis", type=int, nargs="*", default=[8, 16, 64])
    parser.add_argument("--model-parameters", type=float, default=8e9)
    given = parser.parse_args()
    cluster = Cluster()
    for size in given.features_axis:
        data = given.gpus // size
        job = Job(given.n_features, given.width, given.k, given.tokens, data, size, d_read=given.width)
        print(plan(job, cluster, given.model_parameters))
        least = bound(job, cluster, given.model_parameters)
        at = f"from {least:,} tokens a step on" if least else "never"
        print(f"Arithmetic takes longer than the links {at}.\n")


if __name__ == "__main__":
    main()
