"""Output of `ftkit evaluate`: metrics by class, calibration, coverage, and wrong predictions as files."""
