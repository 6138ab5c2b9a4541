"""The scan of all image files before a run: unreadable images, duplicates, value ranges and content digests."""
