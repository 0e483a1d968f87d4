"""What training asks the language model: what it makes of a reconstruction, and what its own weights say."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from monoscope import ops
from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import ConfigError, MismatchError
from monoscope.core.site import Site
from monoscope.dictionaries.base import Dictionary
from monoscope.dictionaries.initialize import Origin
from monoscope.models import Edit, LanguageModel


class SplicedModel:
    """A model reading one batch, with a reconstruction in the place of what it reconstructs.

    Tokens that do not count keep their activations. Raises ConfigError for a dictionary that writes at several sites,
    where later reconstructions would depend on earlier ones; MismatchError for a batch without its text.
    """

    def __init__(
        self, lm: LanguageModel, batch: ActivationBatch, dictionary: Dictionary, scale_out: Float[Tensor, " writes"]
    ) -> None:
        if len(dictionary.writes) != 1:
            raise ConfigError(f"end-to-end training splices one site, found {len(dictionary.writes)}")
        if batch.tokens is None or batch.tokens.ndim != 2:
            raise MismatchError("end-to-end training needs whole sequences with their tokens, as live(...) gives them")
        self.lm, self.tokens, self.site, self.scale = lm, batch.tokens.long(), dictionary.writes[0], scale_out.item()
        self.counts = torch.ones_like(self.tokens, dtype=torch.bool) if batch.mask is None else batch.mask
        self.predicts = self.counts[:, :-1] & self.counts[:, 1:]

    def divergence(self, recon: Float[Tensor, "tokens d"]) -> Float[Tensor, ""]:
        """``mean KL(clean, spliced)`` over the predictions made at tokens that count, in nats."""
        with torch.no_grad():
            clean = self.lm.logits(self.tokens)[:, :-1][self.predicts].log_softmax(-1)
        with self.lm.edit(Edit(self.site, lambda x: self._replaced(x, recon))):
            spliced = self.lm.logits(self.tokens)[:, :-1][self.predicts].log_softmax(-1)
        n_predictions = ops.token_count(len(clean))
        return ops.over_tokens((clean.exp() * (clean - spliced)).sum()) / n_predictions

    def _replaced(self, x: Tensor, recon: Tensor) -> Tensor:
        donor = x.detach().clone()
        donor[self.counts] = (recon / self.scale).to(x)
        return donor


def origin_of(lm: LanguageModel | None, reads: Sequence[Site], writes: Sequence[Site]) -> Origin:
    """The model's own weights between sites: its MLP or attention, where one layer's is read and written."""
    if lm is None or len(reads) != 1 or len(writes) != 1:
        return Origin()
    (read,), (write,) = reads, writes
    if read.layer is None or (read.layer, read.stack, read.model) != (write.layer, write.stack, ""):
        return Origin()
    if (read.kind, write.kind) == ("attn_in", "attn_out"):
        return Origin(attention=lm.attention(read.layer, read.stack))
    if (read.kind, write.kind) != ("mlp_in", "mlp_out"):
        return Origin()

    @torch.no_grad()
    def mlp(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d_out"]:
        # An MLP treats tokens one by one, so any text of the same length lends it the pass.
        rows = []
        for part in x.split(128):
            tokens = torch.zeros(1, len(part), dtype=torch.long)
            with lm.edit(Edit(read, lambda _, part=part: part[None].to(lm.device, lm.dtype))):
                rows.append(lm.read(tokens, [write])[write][0].to(x))
        return torch.cat(rows)

    return Origin(mlp=mlp)
