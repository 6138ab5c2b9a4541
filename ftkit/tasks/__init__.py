"""Tasks: targets, loss and decoding of the outputs."""
