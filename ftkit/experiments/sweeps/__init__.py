"""`ftkit sweep`: searches over config values with Optuna, whose trials are runs."""
