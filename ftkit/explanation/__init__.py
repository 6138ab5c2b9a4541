"""Which parts of an image a class score comes from: class activation maps, their place in the image, overlays."""
