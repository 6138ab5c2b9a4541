"""The sections of the report of a run, one a module."""
