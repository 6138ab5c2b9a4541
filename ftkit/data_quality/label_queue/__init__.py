"""Which unlabelled images to label next, and files for labelling tools."""
