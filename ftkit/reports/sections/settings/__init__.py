"""Sections on the data, the settings and the next commands."""
