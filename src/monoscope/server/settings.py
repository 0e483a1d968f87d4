"""What a server may do, and for whom: the keys of ``[server]``, set with ``--set server.x=...``."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from monoscope.core.config import Config

MIN_TOKEN_BYTES = 32


class Settings(Config):
    """Settings of a server.

    host, port     where to listen; port 0 takes a free one
    token          who sends it is let in; made at start if it is empty
    no_token       let everybody on this machine in; on loopback only
    allow_host     names by which this machine may be addressed, beside localhost and the address itself
    cors_origin    pages of other origins that may call the API, with a token of their own; exact, never "*"
    allow_frame    origins that may show the interface in a frame
    trust_proxy    addresses or networks of proxies that sign users in: X-Forwarded-User of theirs is who writes
    root_path      path under which a proxy offers the server, such as /lab/proxy/8421
    roots          directories below which paths may be opened later; those that are served are always among them
    models         directories of language models, for dictionaries whose bundle does not say where theirs is
    db             the workspace: a file, or postgresql+psycopg://...; in the user's data directory if it is empty
    author         name under which labels and notes are written; the user's if it is empty
    embedder       directory of a model of sentences, by which labels are searched for their meaning
    read_only      nothing can be changed
    log            what goes to standard error: problems, or all requests
    memory         bound on what sorting and filtering may use
    threads        threads of sorting and filtering
    device         where models run: cpu, cuda, or auto for a GPU where there is one
    model_memory   bound on models and dictionaries that are kept for live pages; half of the machine's if it is empty
    max_body       largest request, in bytes
    max_prompt     longest text that is run through a model, in characters
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8421, ge=0, le=65535)
    token: str = ""
    no_token: bool = False
    allow_host: tuple[str, ...] = ()
    cors_origin: tuple[str, ...] = ()
    allow_frame: tuple[str, ...] = ()
    trust_proxy: tuple[str, ...] = ()
    root_path: str = ""
    roots: tuple[Path, ...] = ()
    models: tuple[Path, ...] = ()
    db: str = ""
    author: str = ""
    embedder: str = ""
    read_only: bool = False
    log: Literal["problems", "requests"] = "problems"
    memory: str = Field(default="1GB", pattern=r"^\d{1,6}(MB|GB)$")
    threads: int = Field(default=2, ge=1, le=256)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")
    model_memory: str = Field(default="", pattern=r"^(\d{1,6}(MB|GB))?$")
    max_body: int = Field(default=2_000_000, ge=1024, le=1_000_000_000)
    max_prompt: int = Field(default=20_000, ge=1, le=10_000_000)

    @field_validator("cors_origin", "allow_frame")
    @classmethod
    def _exact(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            scheme, _, rest = origin.partition("://")
            if scheme not in ("http", "https") or not rest or any(sign in rest for sign in "/*?#@ ;,'\""):
                raise ValueError(f"an origin reads https://host or http://host:port, without a path; found {origin!r}")
        return origins

    @field_validator("trust_proxy")
    @classmethod
    def _network(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"a network reads 10.0.0.0/8 or 10.1.2.3, found {network!r} ({error})") from None
        return networks

    @field_validator("root_path")
    @classmethod
    def _rooted(cls, path: str) -> str:
        if path and (not path.startswith("/") or path.endswith("/") or "//" in path):
            raise ValueError(f"a root path begins with / and does not end with it, found {path!r}")
        return path

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.no_token and self.token:
            raise ValueError("no_token and a token exclude each other")
        if is_loopback(self.host):
            return self
        if self.no_token:
            raise ValueError(f"no_token is for this machine only; {self.host} can be reached by others")
        if len(self.token.encode()) < MIN_TOKEN_BYTES:
            raise ValueError(
                f"{self.host} can be reached by others: a token of {MIN_TOKEN_BYTES} bytes or more is needed, found "
                f"{len(self.token.encode())}; set MONOSCOPE_TOKEN, made for instance by: "
                'python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
