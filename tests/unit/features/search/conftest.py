"""A small bundle, labeled and indexed; see ``search_cases``."""

from __future__ import annotations

from search_cases import ask, meaning, search, workspace

__all__ = ["ask", "meaning", "search", "workspace"]
