"""The scan of the image files before a run: unreadable images, duplicates, value ranges, content digests."""
