"""The commands of `ftkit data`."""
