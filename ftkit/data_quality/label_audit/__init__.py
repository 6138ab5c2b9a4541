"""Likely label errors, outliers and overlapping classes, from out-of-fold outputs of a probe or a run."""
