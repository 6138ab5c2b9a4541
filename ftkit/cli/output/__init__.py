"""Output of commands: results on stdout, progress and messages on stderr."""
