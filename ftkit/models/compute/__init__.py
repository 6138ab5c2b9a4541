"""Device, numeric precision, memory format and compilation."""
