"""Norms and nearest neighbors of feature directions."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monoscope.dictionaries import Dictionary
from monoscope.features.columns import Columns, Ragged

SHOWN = 10
CELLS = 2**24
BLOCK = 64


def written(dictionary: Dictionary) -> Float[Tensor, "F d"] | None:
    """What features write, at several sites one row behind the other; None where it depends on what they read."""
    rows = [dictionary.decoder_rows(site) for site in dictionary.writes]
    known = [row.detach().float() for row in rows if row is not None]
    return torch.cat(known, dim=1) if len(known) == len(rows) else None


def directions(dictionary: Dictionary, alive: Bool[np.ndarray, " F"]) -> Columns:
    """Norms of encoder and decoder directions, the cosine between them, and the 10 nearest living features of each.

    enc_dec_cos is NaN where the dictionary reads and writes vectors of different widths, all of the encoder where it
    has none. Of several write sites, write_norms holds the norm at each and write_cosine the cosine between the
    direction there and that of the largest norm; everything else is of the sites' vectors joined to one.
    """
    decoder, encoder = written(dictionary), dictionary.encoder_rows()
    assert decoder is not None, "only features with directions are described"
    dec_norm = decoder.norm(dim=1)
    unknown = torch.full_like(dec_norm, torch.nan)
    scalars = {"dec_norm": dec_norm, "enc_norm": unknown, "enc_dec_cos": unknown}
    living = torch.from_numpy(alive).to(decoder.device)
    lists = _of_sites(decoder.unflatten(1, (len(dictionary.writes), -1))) | _lists("dec", decoder, living)
    if encoder is None:
        lists |= _lists("enc", decoder, torch.zeros_like(living))
    else:
        encoder = encoder.detach().float()
        scalars["enc_norm"] = encoder.norm(dim=1)
        lists |= _lists("enc", encoder, living)
        if decoder.shape == encoder.shape:
            products = (dec_norm * scalars["enc_norm"]).clamp_min(1e-30)
            scalars["enc_dec_cos"] = (decoder * encoder).sum(1) / products
    return Columns({name: value.cpu().numpy() for name, value in scalars.items()}, lists)


def _of_sites(rows: Float[Tensor, "F site d"]) -> dict[str, Ragged]:
    norms = rows.norm(dim=-1)
    unit = rows / norms[..., None].clamp_min(1e-30)
    longest = unit[torch.arange(len(unit)), norms.argmax(1)]
    cosines = (unit @ longest[..., None])[..., 0]
    tables = {"write_norms": norms, "write_cosine": cosines}
    return {name: Ragged.from_table(table.cpu().numpy()) for name, table in tables.items()}


def _lists(name: str, rows: Float[Tensor, "F d"], living: Bool[Tensor, " F"]) -> dict[str, Ragged]:
    ids, values, keep = neighbors(rows, living)
    return {f"{name}_neighbors": Ragged.from_table(ids, keep), f"{name}_cosine": Ragged.from_table(values, keep)}


def neighbors(
    rows: Float[Tensor, "F d"], alive: Bool[Tensor, " F"]
) -> tuple[np.ndarray, np.ndarray, Bool[np.ndarray, "F k"]]:
    """Nearest living rows of each row by cosine, their cosines, and which entries are neighbors at all."""
    unit = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
    living = alive.nonzero()[:, 0]
    among, k = unit[living], min(SHOWN, len(rows))
    place = alive.cumsum(0) - 1
    step = max(1, CELLS // max(len(rows), 1))
    ids, values = [], []
    for start in range(0, len(rows), step):
        cosine = unit[start : start + step] @ among.T
        own = alive[start : start + step].nonzero()[:, 0]
        cosine[own, place[start + own]] = -torch.inf  # nobody is a neighbor of itself
        best, index = largest(cosine, min(k, len(living)))
        values.append(torch.nn.functional.pad(best, (0, k - best.shape[1]), value=-torch.inf))
        ids.append(torch.nn.functional.pad(living[index], (0, k - best.shape[1])))
    cosines = torch.cat(values)
    keep = torch.isfinite(cosines)
    return torch.cat(ids).cpu().numpy().astype(np.uint32), cosines.cpu().numpy(), keep.cpu().numpy()


def largest(x: Float[Tensor, "n m"], k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The ``k`` largest entries of each row and their places, as ``topk`` finds them.

    They lie in the ``k`` blocks of columns with the largest maxima, and maxima cost a third of a selection.
    """
    whole = x.shape[1] // BLOCK * BLOCK
    if whole < 2 * k * BLOCK:
        best = x.topk(k, dim=1)
        return best.values, best.indices
    blocks = x[:, :whole].unflatten(1, (-1, BLOCK))
    block = blocks.amax(-1).topk(k, dim=1).indices
    place = (block[..., None] * BLOCK + torch.arange(BLOCK, device=x.device)).flatten(1)
    rest = torch.arange(whole, x.shape[1], device=x.device).expand(len(x), -1)
    place = torch.cat([place, rest], dim=1)
    best = x.gather(1, place).topk(k, dim=1)
    return best.values, place.gather(1, best.indices)
