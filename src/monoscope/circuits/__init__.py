"""Circuits: which parts of a language model a behavior needs."""

from monoscope.circuits.codes import Codes, edge_scores, head_codes, head_outputs, node_scores, probe_scores

__all__ = ["Codes", "edge_scores", "head_codes", "head_outputs", "node_scores", "probe_scores"]
