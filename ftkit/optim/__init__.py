"""Optimizers, learning-rate curves, and learning rates by layer group."""
