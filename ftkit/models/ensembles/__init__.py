"""Several trained models as one: the network, and the folder."""
