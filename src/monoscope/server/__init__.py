"""The server: bundles, runs and the workspace over HTTP, and the web interface. Light to import."""
