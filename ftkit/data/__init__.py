"""Datasets: splits, labels and classes, and the images behind them."""
