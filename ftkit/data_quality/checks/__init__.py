"""Checks of a dataset: each finds one kind of problem."""
