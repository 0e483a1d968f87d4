"""Layout: the sites of one model, and the place of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import transformers
from torch import nn

from monoscope.core.errors import SiteError, nearest
from monoscope.core.site import KINDS, LAYER_KINDS, Site
from monoscope.models.families import family_of
from monoscope.models.family import At, Family, Stack
from monoscope.models.hooks import Place
from monoscope.models.names import is_foreign, translate

FUSED = ("q", "k", "v")  # their order in a fused projection


class Layout:
    """The sites of a model.

    family: its table; None for an architecture without one, which is read by module paths
    blocks: per stack, its layers
    """

    def __init__(self, hf: transformers.PreTrainedModel) -> None:
        self.hf = hf
        family = family_of(hf.config)
        if family is not None and any(_module(hf.base_model, path) is None for path in family.blocks.values()):
            family = None  # the architecture's name, but not its layout
        self.family: Family | None = family
        paths = {} if family is None else family.blocks
        self.blocks: Mapping[Stack, Any] = {stack: hf.base_model.get_submodule(path) for stack, path in paths.items()}
        self.n_heads = getattr(hf.config.get_text_config(), "num_attention_heads", 1)

    @property
    def n_layers(self) -> int:
        """Layers of the model; of the deeper stack, where there are two."""
        if self.blocks:
            return max(len(blocks) for blocks in self.blocks.values())
        return getattr(self.hf.config.get_text_config(), "num_hidden_layers", 0)

    @property
    def is_eager(self) -> bool:
        """Whether attention weights are computed as such."""
        return self.hf.config.get_text_config()._attn_implementation == "eager"

    def sites(self) -> list[Site]:
        """Every named site, stack by stack, layer by layer."""
        return list(self._sites())

    def _sites(self) -> Iterator[Site]:
        for stack, blocks in self.blocks.items():
            yield Site(None, "embed", stack)
            for layer in range(len(blocks)):
                for kind in LAYER_KINDS:
                    site = Site(layer, kind, stack)
                    if self._exists(site) and (kind != "pattern" or self.is_eager):
                        yield site
        if self.family is not None and self._exists(Site(None, "logits")):
            yield Site(None, "logits")

    def _exists(self, site: Site) -> bool:
        assert self.family is not None
        if site.kind == "logits":
            head = self.family.classifier
            return self.hf.get_output_embeddings() is not None if head is None else _module(self.hf, head) is not None
        if site.layer is None:
            return True
        at = self.family.sites.get(site.kind)
        return at is not None and _module(self.blocks[site.stack][site.layer], at.path) is not None

    def resolve(self, name: Site | str) -> Site:
        """The site of a name. Raises SiteError, with what is near, for one this model does not have."""
        if isinstance(name, str) and "@" not in name and is_foreign(name):
            site = translate(name, self.family, n_layers=self.n_layers).site
        else:
            site = Site.parse(name)
        if site.model:
            raise SiteError(
                f"{site} is a place in the model labeled {site.model!r}, and {self._name} alone has no label; write "
                f"{str(site.of(''))!r}, or read several models together"
            )
        if site.module is not None:
            if (path := self._path(site.module)) is None:
                known = [path for path, _ in self.hf.named_modules() if path]
                raise SiteError(f"{self._name} has no module {site.module!r}; {nearest(site.module, known)}")
            return replace(site, module=path)
        if self.family is None:
            raise SiteError(
                f"{self._name} ({self.hf.config.model_type}) has no table of sites, so {str(site)!r} is not known; "
                f"name a module, as in {self._example()!r}"
            )
        if site.kind == "logits":
            if site.stack:
                raise SiteError("logits belong to the whole model; write 'logits'")
            if not self._exists(site):
                raise SiteError(f"{self._name} has no logits: it was saved without a head")
            return site
        if site.stack not in self.blocks:
            raise SiteError(self._wrong_stack(site))
        if site.layer is not None and site.layer >= len(self.blocks[site.stack]):
            stack = f"the {site.stack}" if site.stack else "the model"
            raise SiteError(f"no layer {site.layer}: {stack} has layers 0..{len(self.blocks[site.stack]) - 1}")
        if not self._exists(site):
            raise SiteError(self._missing(site))
        if site.kind == "pattern" and not self.is_eager:
            found = self.hf.config.get_text_config()._attn_implementation
            raise SiteError(
                f"{site}: {found} attention computes no pattern; switch with lm.hf.set_attn_implementation('eager')"
            )
        return site

    def place(self, site: Site) -> Place:
        """Where a resolved site is."""
        if site.module is not None:
            return Place(self.hf.get_submodule(site.module), "in" if site.kind == "in" else "out")
        if site.kind == "logits":
            return Place(self.hf, "out", entry="logits")
        assert self.family is not None
        if site.layer is None:
            base, table = self.hf.base_model, self.family
            embed = table.project_in if _module(base, table.project_in) is not None else table.embed[site.stack]
            return Place(base.get_submodule(embed or ""), "out")
        block, at = self.blocks[site.stack][site.layer], self.family.sites[site.kind]
        return Place(
            block.get_submodule(at.path),
            at.port,
            entry=1 if site.kind == "pattern" else 0,
            part=self._part(site, at),
            rows_of=block if at.rows else None,
            is_stream=site.kind == "resid_mid",
            normalized=at.normalized,
        )

    def _part(self, site: Site, at: At) -> tuple[int, int] | None:
        if not at.fused:
            return None
        return (self.n_heads if at.fused == "per_head" else 1, FUSED.index(site.kind))

    def _path(self, path: str) -> str | None:
        """Where a module is whose path starts elsewhere: at the base model, or at a model with another head."""
        base, text = f"{self.hf.base_model_prefix}.", "language_model."
        bare = path.removeprefix(base).removeprefix(text)
        near = (path, base + path, path.removeprefix(base), bare, base + bare, text + bare, base + text + bare)
        return next((other for other in near if _module(self.hf, other) is not None), None)

    @property
    def _name(self) -> str:
        return type(self.hf).__name__

    def _example(self) -> str:
        lists = [path for path, module in self.hf.named_modules() if isinstance(module, nn.ModuleList) and len(module)]
        return f"{lists[0]}.0:out" if lists else "path.of.the.module:out"

    def _wrong_stack(self, site: Site) -> str:
        bare = str(site).removeprefix(f"{site.stack}.")
        if site.stack:
            return f"{self._name} has one stack of layers; write {bare!r}"
        both = " or ".join(repr(f"{stack}.{bare}") for stack in self.blocks)
        return f"{self._name} has two stacks of layers; write {both}"

    def _missing(self, site: Site) -> str:
        assert self.family is not None
        message = f"{self._name} has no {str(site)!r}"
        if site.kind == "resid_mid":
            why = {
                "parallel": "attention and MLP read the same stream side by side",
                "post_norm": "a norm follows each addition, so no tensor is resid_pre + attn_out that the MLP adds to",
            }
            return f"{message}: {why[self.family.order]}; it has resid_pre and resid_post"
        here = [kind for kind in KINDS if kind in {s.kind for s in self._sites() if s.layer in (site.layer, None)}]
        return f"{message}; {nearest(site.kind, here)}"


def _module(root: nn.Module, path: str | None) -> nn.Module | None:
    """The module at a path, or None."""
    try:
        return None if path is None else root.get_submodule(path)
    except AttributeError:
        return None
