"""What the weights alone tell of a feature: its direction, its neighbors, and the tokens it promotes."""
