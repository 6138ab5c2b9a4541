"""Datasets: splits, labels, classes and image files."""
