"""The addresses under ``/api/v1``: one file per subject, each with a ``router``."""

from __future__ import annotations

API = "/api/v1"
