"""The built-in metrics, one idea a file."""
