"""monoscope takes a language model apart into features people can read, and hands those features back as tools."""

__version__ = "0.1.0"
