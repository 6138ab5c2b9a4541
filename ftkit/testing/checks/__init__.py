"""The contract checks, one file for each kind of part."""
