"""Sections on the training."""
