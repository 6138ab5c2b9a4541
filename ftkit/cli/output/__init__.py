"""What commands print: results on stdout, progress and messages on stderr."""
