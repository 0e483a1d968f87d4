"""LanguageModel: any Hugging Face transformer, whose activations can be read and edited at sites."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor

from monoscope.core.attention import AttentionWeights
from monoscope.core.errors import MismatchError, ModelError, SiteError
from monoscope.core.io import fingerprint_tensors
from monoscope.core.mesh import Axis
from monoscope.core.site import NORMALIZED_KINDS, Site
from monoscope.models.attention import attention_weights, norm_weights
from monoscope.models.edits import Edit, under_way
from monoscope.models.generation import CachedRows, Sampler, continued
from monoscope.models.hooks import Tap, tapped
from monoscope.models.inputs import Inputs, Mask, Tokens, padding_first, positions_of
from monoscope.models.layout import Layout
from monoscope.models.loading import load
from monoscope.models.sharing import SharedWeights, read_shared
from monoscope.models.unembedding import Unembedding, unembedding


class _Reached(Exception):
    """The last site to read has been seen; the rest of the forward pass is not needed."""


class LanguageModel:
    """A Hugging Face transformer whose sites can be read and edited; its weights are frozen.

    hf: the model itself, in evaluation mode
    tokenizer: its tokenizer, if it has one
    name: where it came from
    """

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        tokenizer: transformers.PreTrainedTokenizerBase | None = None,
        name: str = "",
    ) -> None:
        self.hf = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name or model.config._name_or_path or type(model).__name__
        self._layout = Layout(model)
        self._inputs = Inputs(model, self._layout.family)
        self._widths: dict[Site, int] = {}
        self._fingerprint: str | None = None
        self._edits_rest = False
        self.readers = Axis()
        """Processes that share the rows of what is read, and all read the same."""
        self._weights: SharedWeights | None = None

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        trust_remote_code: bool = False,
        revision: str | None = None,
    ) -> LanguageModel:
        """The model in a local directory, or of a Hugging Face id.

        Raises ModelError, saying what was found, if there is no whole model there. Code that comes with a model runs
        only if ``trust_remote_code`` is set.
        """
        model, tokenizer = load(path_or_id, dtype=dtype, trust_remote_code=trust_remote_code, revision=revision)
        model.to(torch.device(device))  # type: ignore[arg-type]
        return cls(model, tokenizer, str(path_or_id))

    def __repr__(self) -> str:
        kind = self.hf.config.model_type
        return f"LanguageModel({self.name!r}, {kind}, {self.n_layers} layers, d={self.d_model}, {self.dtype})"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.hf.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and of what is read."""
        return self.hf.dtype

    @property
    def n_layers(self) -> int:
        """Number of blocks; of the deeper stack in an encoder-decoder."""
        return self._layout.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.hf.config.get_text_config().hidden_size)

    @property
    def vocab_size(self) -> int:
        """Number of tokens the model knows; 0 for a model of images."""
        return self._inputs.n_tokens

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text: the tokenizer's, which may have none; without a tokenizer, the config's."""
        if self.tokenizer is None:
            return getattr(self.hf.config.get_text_config(), "bos_token_id", None)
        return None if self.tokenizer.bos_token is None else int(self.tokenizer.bos_token_id)  # type: ignore[arg-type]

    @property
    def context_length(self) -> int:
        """Positions the model was made for."""
        if self._inputs.n_positions is not None:
            return self._inputs.n_positions
        if self._inputs.reads_images and self._layout.family is not None:
            embed = Site(None, "embed")
            with self._without_edits():
                return self.read(self._inputs.smallest(), [embed])[embed].shape[1]
        raise ModelError(f"the config of {self.name} does not say how many positions it was made for")

    def sites(self) -> list[Site]:
        """Every named site, stack by stack, layer by layer; none for an architecture without a table."""
        return self._layout.sites()

    def resolve(self, site: Site | str) -> Site:
        """The site of a name. Raises SiteError, which offers the nearest names, if this model does not have it."""
        return self._layout.resolve(site)

    def width(self, site: Site | str) -> int:
        """Width d of a site's activations."""
        site = self.resolve(site)
        if site.kind == "pattern":
            raise SiteError(f"{site} is [batch, head, query, key], which has no width")
        if site not in self._widths:
            with self._without_edits():
                self._widths[site] = self.read(self._inputs.smallest(), [site])[site].shape[-1]
        return self._widths[site]

    @torch.no_grad()
    def read(self, tokens: Tokens, sites: Sequence[Site | str], mask: Mask | None = None) -> dict[Site, Tensor]:
        """Activations at sites, each [batch, pos, d], without gradient; the forward pass stops after the last site.

        ``mask`` is False at padding, which may be on either side: a padded row reads as the same row alone. An image
        model takes pixels [batch, channels, height, width] as tokens. In an encoder-decoder the decoder reads the same
        tokens, one to the right. Raises SiteError for a site the model lacks or does not pass.
        """
        return read_shared(self.readers, lambda rows, own: self._read(rows, sites, own), tokens, mask)

    def share_weights_(self, axis: Axis, sites: Sequence[Site | str]) -> None:
        """Leave this process its share of the blocks' weights; from now on the processes of the axis read together.

        Each reads what it likes, when it likes, at ``sites``, and calls ``catch_up`` where it waits for others in any
        other way. What is outside of the blocks stays whole: embeddings, the final norm, the unembedding. Raises
        ModelError for an architecture without a table of its blocks.
        """
        if not self._layout.blocks:
            raise ModelError(f"the weights of {self.name} cannot be shared: it is not known where its blocks are")
        resolved = [self.resolve(site) for site in sites]
        for site in resolved:
            self.width(site)  # a question to the whole model, as the next
        self.fingerprint()
        blocks = [block for stack in self._layout.blocks.values() for block in stack]
        self._weights = SharedWeights(self.hf, blocks, axis, resolved)

    def catch_up(self) -> None:
        """Take part in what other processes that share the weights read, until none of them reads on."""
        while self._weights is not None and self._weights.any_reads(reads=False):
            self._pass(self._inputs.smallest(), self._weights.sites, None)

    def _read(self, tokens: Tokens, sites: Sequence[Site | str], mask: Mask | None) -> dict[Site, Tensor]:
        if self._weights is not None:
            self._weights.any_reads(reads=True)
        return self._pass(tokens, sites, mask)

    def _pass(self, tokens: Tokens, sites: Sequence[Site | str], mask: Mask | None) -> dict[Site, Tensor]:
        wanted = {self.resolve(site): None for site in sites}
        seen: dict[Site, Tensor] = {}

        def keeper(site: Site) -> Tap:
            def keep(x: Tensor) -> None:
                seen.setdefault(site, x)
                if len(seen) == len(wanted):
                    raise _Reached

            return keep

        if not wanted:
            return {}
        with ExitStack() as hooks:
            if self._weights is not None:
                hooks.callback(self._weights.let_go)
            for site in wanted:
                hooks.enter_context(tapped(self._layout.place(site), keeper(site)))
            try:
                self._forward(tokens, mask)
            except _Reached:
                return {site: seen[site] for site in wanted}
        missed = ", ".join(str(site) for site in wanted if site not in seen)
        raise SiteError(f"the forward pass of {self.name} does not go through {missed}")

    @contextmanager
    def edit(self, *edits: Edit | Iterable[Edit]) -> Iterator[None]:
        """Within the block, x at every edited site becomes ``fn(x)``; gradients flow through; outside, no hook is left.

        Takes edits and iterables of edits. Edits of one site apply in the order given, inner blocks after outer ones. A
        read at an edited site sees the result. Raises SiteError for a site the model lacks, MismatchError if an edit
        changes the shape. A normalized site can be looked at (``fn`` returns None), not changed.
        """
        flat = [edit for some in edits for edit in ((some,) if isinstance(some, Edit) else some)]
        resolved = [Edit(self.resolve(edit.site), edit.fn) for edit in flat]
        for edit in resolved:
            if edit.site.kind == "pattern":
                raise SiteError(f"{edit.site} is computed inside attention and can only be read; edit q, k, v or z")
        with ExitStack() as hooks:
            for edit in resolved:
                hooks.enter_context(tapped(self._layout.place(edit.site), self._checked(edit)))
            yield

    def logits(self, tokens: Tokens, mask: Mask | None = None) -> Float[Tensor, "batch *pos vocab"]:
        """Logits [batch, pos, vocab]; an image classifier's are [batch, label].

        Gradients reach whatever tensors edits bring in.
        """
        output = self._forward(tokens, mask)
        if "logits" not in output:
            raise ModelError(f"{self.name} ({type(self.hf).__name__}) returns no logits: it was saved without a head")
        return output.logits

    @torch.no_grad()
    def generate(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int | None = None,
        mask: Mask | None = None,
    ) -> Int[Tensor, "batch longer"]:
        """``tokens`` and their continuation, with cached keys and values; edits apply.

        A row ends at the model's end-of-text token and is padded behind it. Padding in front (``mask`` False) is
        ignored; padding behind is moved to the front. Temperature 0 takes the likeliest token; otherwise draws come
        from a generator of their own, the same for the same seed. An encoder-decoder returns the decoder's tokens.

        The first pass holds the prompt, each later pass one token per row; each token keeps the position it has when
        the whole row is run at once, so an edit that treats tokens one by one, or by ``current_positions()``, acts as
        it would there. An edit that mixes tokens of a pass does not.
        """
        rows, tokens = self.rows(tokens, mask)
        sampler = Sampler.of(temperature, top_k, seed, self.device)
        stop, pad = self.stop_tokens, self.hf.generation_config.pad_token_id  # type: ignore[union-attr]
        pad = pad if pad is not None else (stop or (0,))[0]
        return continued(tokens, rows, sampler, max_new_tokens=max_new_tokens, stop=stop, pad=pad)

    def rows(
        self, tokens: Int[Tensor, "batch pos"], mask: Mask | None = None
    ) -> tuple[CachedRows, Int[Tensor, "batch first"]]:
        """Rows that ``generate`` continues, nothing of them read yet, and their first tokens, padding in front.

        For those who choose the next token themselves; edits apply to whatever is read within their block.
        """
        if not self.hf.can_generate():
            raise ModelError(f"{self.name} ({type(self.hf).__name__}) does not generate text")
        self._inputs.check(tokens, mask)
        tokens = tokens.to(self.device).long()
        if mask is not None:
            tokens, mask = padding_first(tokens, mask.to(self.device).long())
        if not self._inputs.is_encoder_decoder:
            return CachedRows(self._run, "input_ids", mask, {}), tokens
        fixed = {"encoder_outputs": self._encoded(tokens, mask)} | ({} if mask is None else {"attention_mask": mask})
        first = torch.full_like(tokens[:, :1], self._inputs.decoder_start)
        return CachedRows(self._run, "decoder_input_ids", None, fixed), first

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        """Tokens at which a text ends."""
        stop = self.hf.generation_config.eos_token_id  # type: ignore[union-attr]
        if stop is None:
            return ()
        return (stop,) if isinstance(stop, int) else tuple(stop)

    def fingerprint(self) -> str:
        """SHA-256 of the weights: names, dtypes, shapes and bytes."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint_tensors(self.hf.state_dict())
        return self._fingerprint

    def unembed(self) -> Unembedding:
        """Final norm, W_U [d, vocab], bias and softcap: what turns the last residual stream into logits.

            logits = c * tanh((norm(x) @ W_U + bias) / c),  without the tanh where c is None

        BERT's norm is its head's transform, dense layer and activation included.
        """
        return unembedding(self.hf, self._layout.family)

    def attention(self, layer: int, stack: Literal["", "encoder", "decoder"] = "") -> AttentionWeights:
        """The weights of a layer's attention, head by head, with everything its pattern depends on.

        Raises SiteError for a layer the model lacks, and ModelError for attention with ALiBi, or with rotary positions
        that depend on the length of the text.
        """
        return attention_weights(self._layout, layer, stack)

    def gain(self, site: Site | str) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
        """Gain and bias of the norm whose site before them is meant: ``mlp_in == mlp_normalized * gain + bias``.

        Raises SiteError for a site that is not before a gain.
        """
        site = self.resolve(site)
        if site.kind not in NORMALIZED_KINDS:
            raise SiteError(f"{site} is not before the gain of a norm; {' and '.join(NORMALIZED_KINDS)} are")
        weights = norm_weights(self._layout.place(site).module)
        assert weights is not None
        return weights

    def _forward(self, tokens: Tensor, mask: Tensor | None) -> Any:
        """A pass over whole rows, without a cache."""
        self._inputs.check(tokens, mask)
        tokens = tokens.to(self.device)
        if self._inputs.reads_images:
            return self.hf(**self._inputs.arguments(tokens, None))
        mask = None if mask is None else mask.to(self.device).long()
        with self._inputs.exact_positions(mask):
            return self._run(self._inputs.arguments(tokens.long(), mask), _positions(tokens, mask))

    def _encoded(self, tokens: Tensor, mask: Tensor | None) -> Any:
        """What the encoder of an encoder-decoder makes of a text."""
        arguments = {"input_ids": tokens} | ({} if mask is None else {"attention_mask": mask})
        with self._inputs.exact_positions(mask):
            return self._run(arguments, _positions(tokens, mask), self.hf.get_encoder())

    def _run(self, arguments: dict[str, Any], positions: Tensor, module: torch.nn.Module | None = None) -> Any:
        token = under_way.set(positions)
        try:
            return (module or self.hf)(**arguments)
        finally:
            under_way.reset(token)

    def _checked(self, edit: Edit) -> Tap:
        """The edit's function, its result held to the shape and brought to the dtype of what it replaces."""

        def fn(x: Tensor) -> Tensor | None:
            new = None if self._edits_rest else edit.fn(x)
            if new is None:
                return None
            if edit.site.kind in NORMALIZED_KINDS:
                after = str(edit.site).replace("normalized", "in")
                raise SiteError(
                    f"{edit.site} is computed beside the forward pass and can only be looked at; what the model goes "
                    f"on with is {after}, which is {edit.site} times the norm's gain: edit that"
                )
            if new.shape != x.shape:
                raise MismatchError(f"the edit at {edit.site} was given {list(x.shape)} and returned {list(new.shape)}")
            return new.to(x.dtype)

        return fn

    @contextmanager
    def _without_edits(self) -> Iterator[None]:
        before, self._edits_rest = self._edits_rest, True
        try:
            yield
        finally:
            self._edits_rest = before


def _positions(tokens: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        return positions_of(mask)
    return torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
