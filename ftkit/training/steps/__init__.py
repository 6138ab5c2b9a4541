"""Parts of a training step: the losses of a batch, the totals of an epoch, and the network of the phase."""
