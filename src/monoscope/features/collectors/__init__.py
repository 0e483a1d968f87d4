"""What one pass over the corpus tells of every feature. A collector has ``update(firings)``, and an end of its own."""
