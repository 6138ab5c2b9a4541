"""Sections on the predictions of the model."""
