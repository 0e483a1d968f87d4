"""What tests of live requests share: the bundled model, small dictionaries of it with their bundles, and a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch

from monoscope.core.site import Site
from monoscope.demo import MODEL
from monoscope.dictionaries import Autoencoder
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.variants import JumpReLU
from monoscope.features import Analysis, analyze
from monoscope.harvest import StandardLibrary, live
from monoscope.models import LanguageModel
from monoscope.server.run import Server
from monoscope.server.settings import Settings

SITE = Site.parse("2.resid_post")
N_FEATURES, CONTEXT, DEAD = 512, 64, 500


def language_model() -> LanguageModel:
    """The bundled model."""
    lm = LanguageModel.from_pretrained(MODEL)
    lm.name = "bundled"
    return lm


def dictionary(function: dict[str, Any], rows: torch.Tensor) -> Autoencoder:
    """A dictionary of some directions; under jumprelu one of its features never fires."""
    wiring = Autoencoder.Config(n_features=N_FEATURES)
    made = wiring.build(ActivationFunction.Config.from_dict(function), (SITE,), (SITE,), {SITE: 192})
    assert isinstance(made, Autoencoder)
    with torch.no_grad():
        made.W_dec.copy_(rows)
        made.W_enc.copy_(rows.T)
        if isinstance(made.activation, JumpReLU):
            made.activation.threshold[DEAD] = 1e6
    return made.eval().requires_grad_(False)


def directions() -> tuple[torch.Tensor, torch.Tensor]:
    """Random ones; and as many of which half are the same but for noise, in reverse, one of them twice."""
    generator = torch.Generator().manual_seed(0)
    first, own, noise = (torch.randn(N_FEATURES, 192, generator=generator) for _ in range(3))
    half = N_FEATURES // 2
    second = torch.cat([first[:half].flip(0), own[half:]]) + 0.3 * noise
    second[half] = first[0] + 0.3 * noise[0].flip(0)
    return torch.nn.functional.normalize(first), torch.nn.functional.normalize(second)


def library(path: Path) -> Path:
    """Two dictionaries with their bundles: ``topk`` and ``jump``."""
    lm = language_model()
    windows = StandardLibrary().windows(lm, context=CONTEXT, tokens=4096)
    functions = {"topk": {"kind": "topk", "k": 16}, "jump": {"kind": "jumprelu", "threshold": 2.0}}
    for (name, function), rows in zip(functions.items(), directions(), strict=True):
        made = dictionary(function, rows)
        source = live(lm, windows, [SITE])
        made.provenance = {"source": json.loads(json.dumps(source.info))}
        made.save(path / name / "dictionary")
        bundle = analyze(made, source, path / name / "features.mono", lm=lm, config=Analysis(window=16))
        assert len(bundle) == N_FEATURES
    return path


@contextmanager
def serving(paths: list[Path], **settings: Any) -> Iterator[httpx.Client]:
    """A server of some paths, and a client of what is below ``/api/v1``; ``client.state`` is the server's."""
    with Server(paths, Settings(no_token=True, port=0, **settings)).start() as server:
        server.state.library.matched.wait(30)
        with httpx.Client(base_url=f"{server.address}/api/v1", timeout=120, trust_env=False) as client:
            client.state = server.state  # type: ignore[attr-defined]
            yield client


def events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any], int | None]]:
    """Events of a stream: name, data, id."""
    name, ident = "", None
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("id: "):
            ident = int(line[4:])
        elif line.startswith("data: "):
            yield name, json.loads(line[6:]), ident
            ident = None
