"""Files of published sets, laid out by hand, and what they compute by numpy alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

Arrays = dict[str, np.ndarray]


def arrays(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Arrays:
    """Random weights; ``threshold``s are positive."""
    rng = np.random.default_rng(seed)
    made = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {name: np.abs(w) if name == "threshold" else w for name, w in made.items()}


def canonical(d: int, n: int, d_out: int | None = None, seed: int = 0) -> Arrays:
    """Weights of a JumpReLU dictionary in the orientation x @ W_enc, a sparse one."""
    out = d if d_out is None else d_out
    made = arrays({"W_enc": (d, n), "b_enc": (n,), "W_dec": (n, out), "b_dec": (out,), "threshold": (n,)}, seed)
    return made | {"threshold": made["threshold"] + 0.5}


def inputs(d: int, rows: int = 64, seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, d)).astype(np.float32)


def jumprelu(pre: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    return np.maximum(pre, 0) * (pre > threshold)


def topk(pre: np.ndarray, k: int) -> np.ndarray:
    """The k largest of each row, negative ones made 0."""
    acts = np.zeros_like(pre)
    for row, largest in enumerate(np.argsort(-pre, axis=1)[:, :k]):
        acts[row, largest] = np.maximum(pre[row, largest], 0)
    return acts


def write_safetensors(path: Path, tensors: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.array(value, order="C") for name, value in tensors.items()}, path)


def write_npz(path: Path, tensors: Arrays, *, compressed: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (np.savez_compressed if compressed else np.savez)(path, **tensors)  # type: ignore[arg-type]


def write_pt(path: Path, tensors: Arrays, dtype: torch.dtype = torch.float32, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: torch.from_numpy(value).to(dtype) for name, value in tensors.items()} | more, path)


def write_json(path: Path, table: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table))


def fvu(recon: np.ndarray, target: np.ndarray) -> float:
    return float(((target - recon) ** 2).sum() / ((target - target.mean(0)) ** 2).sum())


def l0(acts: np.ndarray) -> float:
    return float((acts != 0).sum(1).mean())
