"""Long work: taken from the workspace's queue, done by the worker, told of as events."""
