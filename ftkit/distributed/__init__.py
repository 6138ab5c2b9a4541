"""Several processes in one run: the environment of the launcher, and collectives."""
