"""Reports of runs as single HTML files, which need no network and no further file."""
