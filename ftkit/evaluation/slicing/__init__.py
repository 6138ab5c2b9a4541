"""Metrics on parts of a split: by the columns of a table, by properties of the images, by clusters of features."""
