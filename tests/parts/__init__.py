"""Real parts for tests, demo and bench: a registry, an engine, images, a slow link; and how to be alone with them."""
