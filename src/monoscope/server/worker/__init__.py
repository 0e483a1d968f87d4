"""The one process that runs models: the server asks it over a socket, and outlives it."""
