"""Built-in image transforms."""
