"""The page of a label audit."""
