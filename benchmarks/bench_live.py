"""How long live requests take: one feature on one's own text, the first steered token, and pages while a job runs.

    python benchmarks/bench_live.py [--demo DIR] [--out benchmarks/results]

A server is started on the run of ``monoscope demo`` (made if there is none) and asked over HTTP, as a browser asks it.
Writes ``bench_live.json`` beside the other results: milliseconds, half of the requests faster (p50), 95 % faster (p95).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import torch

from monoscope.evals.correspondence import by_direction
from monoscope.server.run import Server
from monoscope.server.settings import Settings

TEXTS = 40
TEXT = "import os\n\n\ndef names(path):\n    for name in os.listdir(path):\n        if name:\n            yield {}\n"
COMPARED = ((4096, 256), (16384, 256))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, help="a run of monoscope demo; made in a temporary directory without one")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        demo = options.demo or _demo(Path(scratch) / "demo")
        settings = Settings(no_token=True, port=0, db=str(Path(scratch) / "workspace.db"))
        with Server([demo], settings).start() as server:
            server.state.library.matched.wait(60)
            with httpx.Client(base_url=f"{server.address}/api/v1", timeout=300, trust_env=False) as client:
                results = measure(client, server.state.library.entries[0].id)
    results |= {"compare": [compare(n, d) for n, d in COMPARED]}
    results["machine"] = {"cpus": os.cpu_count(), "processor": platform.machine(), "torch": torch.__version__}
    results["machine"]["load_average"] = os.getloadavg()[0]
    options.out.mkdir(exist_ok=True)
    (options.out / "bench_live.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def _demo(path: Path) -> Path:
    from monoscope.demo.run import run

    run(path)
    return path


def measure(client: httpx.Client, name: str) -> dict[str, Any]:
    """All latencies of one server."""
    began = time.perf_counter()
    client.post("/worker/warm", json={"dicts": [name]}).raise_for_status()
    results: dict[str, Any] = {"cold_start_s": round(time.perf_counter() - began, 2)}

    def feature(n: int) -> None:
        body = {"dict": name, "feature": 7 * n, "text": TEXT.format(n)}
        client.post("/activate/feature", json=body).raise_for_status()

    def same_text(n: int) -> None:
        body = {"dict": name, "feature": 7 * n, "text": TEXT.format("name")}
        client.post("/activate/feature", json=body).raise_for_status()

    def activate(n: int) -> None:
        client.post("/activate", json={"dicts": [name], "text": TEXT.format(n)}).raise_for_status()

    def page(n: int) -> None:
        client.get(f"/dictionaries/{name}/features/{(n * 997) % 3000}").raise_for_status()

    results["feature_on_new_text"] = timed(feature)
    results["feature_on_same_text"] = timed(same_text)
    results["activate"] = timed(activate)
    results["feature_page"] = timed(page)
    results |= steering(client, name)
    body = {"kind": "evaluate", "dict": name, "tokens": 2_000_000}
    job = client.post("/jobs", json=body).raise_for_status().json()["id"]
    while client.get(f"/jobs/{job}").json()["progress"] is None:
        time.sleep(0.1)
    results["feature_page_while_a_job_runs"] = timed(page)
    results["feature_on_new_text_while_a_job_runs"] = timed(feature)
    assert client.get(f"/jobs/{job}").json()["state"] == "running", "the job ran all the while"
    client.delete(f"/jobs/{job}")
    return results


def steering(client: httpx.Client, name: str) -> dict[str, Any]:
    """Milliseconds until the first steered token, and between tokens; with the baseline to generate beside it."""
    first, between = [], []
    for n in range(TEXTS):
        edits = [{"dict": name, "feature": 31 * n, "op": "add", "strength": 0.2}]
        body = {"text": TEXT.format(n), "edits": edits, "max_tokens": 16, "guard": False}
        began, times = time.perf_counter(), []
        with client.stream("POST", "/steer", json=body) as response:
            times = [time.perf_counter() for line in response.iter_lines() if line == "event: steered.token"]
        first.append(1000 * (times[0] - began))
        between += list(1000 * np.diff(times))
    return {"first_steered_token": summary(first[1:]), "between_steered_tokens": summary(between)}


def timed(request: Callable[[int], None]) -> dict[str, float]:
    """Milliseconds of a request, over texts or features of its own each time."""
    request(0)
    return summary(list(_milliseconds(request)))


def _milliseconds(request: Callable[[int], None]) -> Iterator[float]:
    for n in range(1, TEXTS + 1):
        began = time.perf_counter()
        request(n)
        yield 1000 * (time.perf_counter() - began)


def summary(values: list[float]) -> dict[str, float]:
    return {
        "n": len(values),
        "p50": round(float(np.median(values)), 1),
        "p95": round(float(np.quantile(values, 0.95)), 1),
    }


def compare(n: int, d: int) -> dict[str, Any]:
    """Seconds to compare two dictionaries of ``n`` features, half of them shared."""
    generator = torch.Generator().manual_seed(0)
    a, noise, own = (torch.randn(n, d, generator=generator) for _ in range(3))
    b = torch.cat([a[: n // 2] + 0.2 * noise[: n // 2], own[n // 2 :]])
    began = time.perf_counter()
    found = by_direction(a, b, 0.7)
    return {
        "features": n,
        "width": d,
        "seconds": round(time.perf_counter() - began, 2),
        "matched": found.pairs.shape[1],
        "table_mb": round(4 * n * n / 1e6),
        "block_mb": round(4 * min(2**24, n * n) / 1e6),
    }


if __name__ == "__main__":
    main()
