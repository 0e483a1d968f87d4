"""Training runs as their directories tell of them: settings, logs, what can be opened. Nothing here loads a model."""
