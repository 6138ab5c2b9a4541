"""Output about plans and runs: what a run will do, its progress and its results."""
