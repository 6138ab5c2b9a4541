"""Evaluates models on labelled splits and compares runs."""
