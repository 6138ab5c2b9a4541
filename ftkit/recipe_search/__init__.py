"""`budget`: recipes are tried on a run's data for a given time, and the best one becomes the run."""
