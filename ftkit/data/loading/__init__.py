"""From a split to batches of tensors on the device."""
