"""Cuts a network in two: by its traced graph, or by replaying its own forward pass."""
