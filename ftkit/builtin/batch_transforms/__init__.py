"""Built-in batch transforms."""
