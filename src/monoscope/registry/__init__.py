"""Known public releases of dictionaries: where they are, what they read, and how they are opened. Text alone."""

from monoscope.registry.references import Resolved, is_reference, resolve
from monoscope.registry.releases import Release, Set, releases, search

__all__ = ["Release", "Resolved", "Set", "is_reference", "releases", "resolve", "search"]
