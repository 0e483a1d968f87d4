"""Norms and nearest neighbors of feature directions."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monoscope.dictionaries import Dictionary
from monoscope.features.columns import Columns, Ragged

SHOWN = 10
CELLS = 2**24


def directions(dictionary: Dictionary, alive: Bool[np.ndarray, " F"]) -> Columns:
    """Norms of encoder and decoder directions, the cosine between them, and the 10 nearest living features of each.

    enc_dec_cos is NaN where the dictionary reads and writes vectors of different widths.
    """
    decoder = dictionary.get_parameter("W_dec").detach().float()
    encoder = dictionary.get_parameter("W_enc").detach().float().T
    dec_norm, enc_norm = decoder.norm(dim=1), encoder.norm(dim=1)
    if decoder.shape == encoder.shape:
        cosine = (decoder * encoder).sum(1) / (dec_norm * enc_norm).clamp_min(1e-30)
    else:
        cosine = torch.full_like(dec_norm, torch.nan)
    living = torch.from_numpy(alive).to(decoder.device)
    lists = {"write_norms": Ragged.from_table(dec_norm[:, None].cpu().numpy())}
    for name, rows in (("dec", decoder), ("enc", encoder)):
        ids, values, keep = neighbors(rows, living)
        lists[f"{name}_neighbors"] = Ragged.from_table(ids, keep)
        lists[f"{name}_cosine"] = Ragged.from_table(values, keep)
    scalars = {"dec_norm": dec_norm, "enc_norm": enc_norm, "enc_dec_cos": cosine}
    return Columns({name: value.cpu().numpy() for name, value in scalars.items()}, lists)


def neighbors(
    rows: Float[Tensor, "F d"], alive: Bool[Tensor, " F"]
) -> tuple[np.ndarray, np.ndarray, Bool[np.ndarray, "F k"]]:
    """Nearest living rows of each row by cosine, their cosines, and which entries are neighbors at all."""
    unit = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
    k, step = min(SHOWN, len(rows)), max(1, CELLS // len(rows))
    ids, values = [], []
    for start in range(0, len(rows), step):
        cosine = unit[start : start + step] @ unit.T
        cosine[:, ~alive] = -torch.inf
        cosine.diagonal(start).fill_(-torch.inf)
        best = cosine.topk(k, dim=1)
        ids.append(best.indices)
        values.append(best.values)
    cosines = torch.cat(values)
    keep = torch.isfinite(cosines)
    return torch.cat(ids).cpu().numpy().astype(np.uint32), cosines.cpu().numpy(), keep.cpu().numpy()
