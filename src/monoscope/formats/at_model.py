"""What a dictionary's files leave to its model: constants and gains that only the model's weights say.

    value biases    TransformerLens moves b_V, the bias of the values, behind the output projection: its z is z - b_V.
                    A dictionary trained there is one of z with
                        b_dec + b_V                             where it writes z
                        b_enc - b_V @ W_enc                     where it reads z and does not center
    gains           mlp_in = mlp_normalized * g + b. A dictionary that reads before a norm's gain reads behind it with
                        W_enc / g,   b_enc - (b / g) @ W_enc    and, where it writes there too, W_dec g, b_dec g + b

Both are exact: features and reconstructions stay what they were. b_V is the same at every token since the weights of a
pattern sum to 1; heads that share values each have it.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor

from monoscope.core.errors import MismatchError, UserError
from monoscope.core.site import NORMALIZED_KINDS, Site
from monoscope.dictionaries import Autoencoder, Dictionary
from monoscope.models import LanguageModel

LEAST_GAIN = 1e-3  # of the mean one, below which dividing by it would leave mostly rounding


@torch.no_grad()
def with_value_biases(dictionary: Dictionary, lm: LanguageModel) -> Autoencoder:
    """A dictionary trained on TransformerLens' z, as one of the model's own.

    Raises UserError for a dictionary that does not read z or that normalizes, MismatchError for another width.
    """
    made = _copied(dictionary)
    (read,), (written,) = made.reads, made.writes
    if read.kind != "z" or read.layer is None:
        raise UserError(f"the dictionary reads {read}: values have their bias in z, the heads side by side")
    bias = lm.attention(read.layer, read.stack).b_V.flatten().to(made.W_enc)
    _check_width(bias, made, read)
    _shift_input(made, bias)
    if written == read:
        made.b_dec.add_(bias)
    return made


@torch.no_grad()
def behind_gain(dictionary: Dictionary, lm: LanguageModel) -> Autoencoder:
    """A dictionary that reads before a norm's gain, as one that reads behind it, where attention or the MLP read.

    Raises UserError for a dictionary that does not, or for a gain that is nearly 0 somewhere.
    """
    made = _copied(dictionary)
    (read,), (written,) = made.reads, made.writes
    if read.kind not in NORMALIZED_KINDS:
        raise UserError(f"the dictionary reads {read}, which is not before a norm's gain")
    gain, bias = (weights.to(made.W_enc) for weights in lm.gain(read))
    _check_width(gain, made, read)
    if gain.abs().min() < LEAST_GAIN * gain.abs().mean():
        raise UserError(f"the norm behind {read} takes a coordinate away: its gain is {gain.abs().min():.2g} there")
    if written == read and made.config.scale_by_decoder_norm:
        raise UserError("scores are scaled by the norms of decoder rows, which a gain would change")
    made.W_enc.div_(gain[:, None])
    for weight in (made.W_skip, made.W_glu):
        if weight is not None:
            weight.div_(gain[:, None])
    if written == read:
        made.W_dec.mul_(gain)
        made.b_dec.mul_(gain)
    _shift_input(made, bias)
    if written == read:
        made.b_dec.add_(bias)
    after = Site(read.layer, read.kind.replace("normalized", "in"), read.stack, model=read.model)
    made.widths = {after if site == read else site: width for site, width in made.widths.items()}
    made.reads = (after,)
    made.writes = (after,) if written == read else made.writes
    return made


def _copied(dictionary: Dictionary) -> Autoencoder:
    if not isinstance(dictionary, Autoencoder):
        raise UserError(f"only autoencoders and transcoders are moved, found {type(dictionary).__name__}")
    if dictionary.config.normalizer != "none":
        raise UserError(
            f"the dictionary normalizes tokens ({dictionary.config.normalizer}), which no shift goes through"
        )
    return copy.deepcopy(dictionary.frozen())


def _check_width(weights: Tensor, dictionary: Autoencoder, site: Site) -> None:
    if len(weights) != dictionary.d_in:
        raise MismatchError(f"{site} of the model has width {len(weights)}, and the dictionary reads {dictionary.d_in}")


def _shift_input(made: Autoencoder, shift: Float[Tensor, " d"]) -> None:
    """Let the dictionary read ``x + shift`` where it read x; its weights are those of the new input already."""
    if not made.config.center:
        made.b_enc.sub_(shift @ made.W_enc)
        if made.b_glu is not None and made.W_glu is not None:
            made.b_glu.sub_(shift @ made.W_glu)
    if made.W_skip is not None:
        made.b_dec.sub_(shift @ made.W_skip)
