"""`ftkit evaluate --slices`: its flags, and the table of slices."""
