"""The data of a run: its splits, its validation images and its task."""
