"""Requests that run a model while somebody waits, and streams of events."""
