"""What a crosscoder's features are at each of its sites: when they emerge, how they turn, to which model they belong.

    trajectory   t_f(m) = n_mf / max_m n_mf                        n_mf = ||W_dec[m, f]||, sites alike in scale
    emergence    the first m where t_f(m) >= 1/2                   decay: the first m past the peak where t_f(m) < 1/2
    rotation     R_f(m, m') = cos(W_dec[m, f], W_dec[m', f])
    share        n_1f / (n_0f + n_1f) of two models

That a norm is small at a model does not make a feature foreign to it: the penalty may have shrunk it there, or another
feature may say the same. Before a feature is called exclusive to a model, ask how much of it is in what the other model
does otherwise:

    latent scaling    beta_mf = argmin_beta sum_tokens ||r_mf - beta acts_f W_dec[own, f]||^2
                      r_mf = x_m less what all other features reconstruct of it

beta is 1 where the feature is as in its own model and 0 where there is nothing of it. A feature of norm 0 at a model
with beta near 1 there was shrunk away.

Sources: snapshots: Ge et al. 2025 (arXiv:2509.17196); latent scaling: Minder et al. 2025 (arXiv:2504.02922), section 3;
the threshold of one half is ours. Shapes: M sites in order, F features.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monoscope.core.acts import Acts

PRESENT = 0.5


def norm_trajectory(norms: Float[Tensor, "site F"]) -> Float[Tensor, "site F"]:
    """Norm of each feature at each site, relative to its largest; 0 for a feature without any."""
    return norms / norms.amax(0).clamp_min(torch.finfo(norms.dtype).tiny)


def emergence(norms: Float[Tensor, "site F"], present: float = PRESENT) -> Int[Tensor, " F"]:
    """First site at which a feature has a share ``present`` of its largest norm."""
    return (norm_trajectory(norms) >= present).int().argmax(0)


def decay(norms: Float[Tensor, "site F"], present: float = PRESENT) -> Int[Tensor, " F"]:
    """First site past its peak at which a feature has less than ``present`` of its largest norm; M if it stays."""
    sites = torch.arange(len(norms), device=norms.device)[:, None]
    gone = (norm_trajectory(norms) < present) & (sites > norms.argmax(0))
    return torch.where(gone.any(0), gone.int().argmax(0), len(norms))


def rotation(W_dec: Float[Tensor, "site F d"]) -> Float[Tensor, "F site site"]:
    """Cosine of each feature's directions at every two sites; 0 where it has none."""
    unit = torch.nn.functional.normalize(W_dec, dim=-1).transpose(0, 1)
    return unit @ unit.transpose(1, 2)


def two_model_share(norms: Float[Tensor, "2 F"]) -> Float[Tensor, " F"]:
    """0 for features of the first model alone, 1 for those of the second, 1/2 for what both share equally."""
    return norms[1] / (norms[0] + norms[1]).clamp_min(torch.finfo(norms.dtype).tiny)


def latent_scaling(
    acts: Acts,
    error: Float[Tensor, "n site d"],
    W_dec: Float[Tensor, "site F d"],
    own: int,
) -> Float[Tensor, "site F"]:
    """Strength at each site of what feature f is at site ``own``, as the data and not the decoder have it.

    NaN for features that do not fire.

    error: what the crosscoder leaves out, in the same units as ``W_dec``
    """
    strength, direction = acts.dense(), W_dec[own]
    left_out = torch.stack([(strength.T @ at_site * direction).sum(1) for at_site in error.unbind(1)])
    power = strength.square().sum(0) * direction.square().sum(1)
    return left_out / power + (W_dec * direction).sum(-1) / direction.square().sum(1)
