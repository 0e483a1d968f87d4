"""Directories elsewhere: what fsspec reaches, one writer at a time, and runs that are sent there as they go."""
