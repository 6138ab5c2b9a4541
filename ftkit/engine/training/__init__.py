"""A run: the loop, what is before and after it, and what it keeps."""
