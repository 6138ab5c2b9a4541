"""Commands that list and show runs, settings, plugins and parts; the others do the work."""
