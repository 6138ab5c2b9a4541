"""From a config to a `Plan`, which determines everything that a run does."""
