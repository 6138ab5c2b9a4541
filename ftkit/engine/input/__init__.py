"""From a dataset's split to batches on the device: order, pixels, transforms, and images that are kept decoded."""
