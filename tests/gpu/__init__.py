"""Tests that need a GPU: `pytest tests/gpu -n 0`."""
