"""What a browser waits for: the server's first page, and reading a bundle, idle and while a model is run.

    python benchmarks/bench_server.py [BUNDLE] [--live DIR] [--out benchmarks/results/bench_server.json]

BUNDLE is one as ``large_bundle.py`` makes it, of 131,072 features; DIR holds a dictionary and its bundle, as the demo
leaves them, and is made if it is not given. Times are of whole requests over HTTP, in milliseconds, the median and the
95th percentile of 60; sort orders and filters are asked for once each, so that none is remembered. ``server`` is the
part spent on filtering, sorting and paging. A page is 100 rows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

REPEAT = 60
COLUMNS = ("density", "max_act", "mean_act", "dec_norm", "logit_kurtosis", "first_pos_share")
SENTENCE = "def read(path):\n    with open(path) as file:\n        return file.read()\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--live", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        bundle, live = options.bundle or _large(Path(made)), options.live or _demo(Path(made))
        result = {"machine": platform.machine(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
        result |= {"start": start([bundle, live], Path(made)), **requests(bundle, live, Path(made))}
    print(json.dumps(result, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def start(paths: list[Path], where: Path) -> dict[str, float]:
    """Seconds from the start of the process to its address, its first page, and its first answer; the best of three.

    cpu_s is the processor time of the server until then, which other work on the machine does not lengthen.
    """
    runs = []
    for i in range(3):
        began = time.perf_counter()
        process, said = _serve(paths, where / f"start{i}.db")
        times = {"address_s": time.perf_counter() - began}
        httpx.get(said["address"], headers={"Accept": "text/html"}, trust_env=False)
        times["page_s"] = time.perf_counter() - began
        answer = httpx.get(f"{said['address']}/api/v1/library", headers=_token(said), trust_env=False, timeout=30)
        assert answer.status_code == 200
        times["library_s"] = time.perf_counter() - began
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        times["cpu_s"] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        process.terminate()
        process.wait()
        runs.append(times)
    return {name: round(min(run[name] for run in runs), 3) for name in runs[0]}


def requests(bundle: Path, live: Path, where: Path) -> dict[str, Any]:
    """Latencies of reading, idle and while texts are run and generated."""
    process, said = _serve([bundle, live], where / "requests.db")
    base = f"{said['address']}/api/v1"
    try:
        with httpx.Client(base_url=base, headers=_token(said), trust_env=False, timeout=120) as client:
            cards = client.get("/dictionaries").json()
            large, small = (
                next(c["id"] for c in cards if Path(c["path"]).is_relative_to(p.resolve())) for p in (bundle, live)
            )
            n = next(card["n_features"] for card in cards if card["id"] == large)
            client.get(f"/dictionaries/{large}/features", params={"sort": "label"})
            idle = _measure(client, large, n, 0)
            stop = threading.Event()
            busy = threading.Thread(target=_run_models, args=(base, said, small, stop))
            busy.start()
            while client.get("/meta").json()["worker"]["state"] != "busy":
                time.sleep(0.1)
            under = _measure(client, large, n, 1)
            stop.set()
            busy.join()
    finally:
        process.terminate()
        process.wait()
    return {"features": n, "idle": idle, "while_a_model_runs": under}


def _measure(client: httpx.Client, id: str, n: int, turn: int) -> dict[str, Any]:
    rng = np.random.default_rng(turn)
    path, inside = f"/dictionaries/{id}", []

    def sort(i: int) -> httpx.Response:
        low = (i + 1 + REPEAT * turn) * 1e-7
        conditions = [{"column": "density", "op": ">", "value": low}, {"column": "max_act", "op": ">", "value": 0.01}]
        query = {"filter": json.dumps(conditions), "sort": f"-{COLUMNS[i % len(COLUMNS)]}"}
        answer = client.get(f"{path}/features", params=query)
        inside.append(answer.json()["ms"])
        return answer

    def page(i: int) -> httpx.Response:
        return client.get(f"{path}/features", params={"sort": "-density", "offset": int(rng.integers(n - 100))})

    def place(i: int) -> httpx.Response:
        return client.get(f"{path}/features/place", params={"sort": "-density", "feature": int(rng.integers(n))})

    def feature(i: int) -> httpx.Response:
        return client.get(f"{path}/features/{int(rng.integers(n))}")

    def contexts(i: int) -> httpx.Response:
        return client.get(f"{path}/features/{int(rng.integers(n))}/contexts")

    def following(i: int) -> httpx.Response:
        return client.get(f"{path}/features/{i}/contexts")

    asked = (page, place, feature, contexts, following)
    out = {"sort_and_filter": _times(sort), "server": _percentiles(inside)}
    return out | {job.__name__: _times(job) for job in asked}


def _times(job: Callable[[int], httpx.Response]) -> dict[str, float]:
    times = []
    for i in range(REPEAT):
        began = time.perf_counter()
        answer = job(i)
        times.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, answer.text
    return _percentiles(times)


def _percentiles(times: list[float]) -> dict[str, float]:
    return {"median": round(float(np.median(times)), 2), "p95": round(float(np.percentile(times, 95)), 2)}


def _run_models(base: str, said: dict[str, Any], id: str, stop: threading.Event) -> None:
    with httpx.Client(base_url=base, headers=_token(said), trust_env=False, timeout=120) as client:
        i = 0
        while not stop.is_set():
            i += 1
            answer = client.post("/activate", json={"dicts": [id], "text": f"# {i}\n{SENTENCE * 8}"})
            assert answer.status_code == 200, answer.text


def _serve(paths: list[Path], db: Path) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    command = [sys.executable, "-m", "monoscope", "serve", *map(str, paths), "--port", "0", "--json"]
    process = subprocess.Popen([*command, "--set", f"server.db={db}"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def _token(said: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {said['token']}"}


def _large(where: Path) -> Path:
    script = Path(__file__).with_name("large_bundle.py")
    subprocess.run([sys.executable, script, where / "large.mono"], check=True, stdout=subprocess.DEVNULL)
    return where / "large.mono"


def _demo(where: Path) -> Path:
    from monoscope.demo.run import run

    run(where / "demo", scale=0.1)
    return where / "demo"


if __name__ == "__main__":
    main()
