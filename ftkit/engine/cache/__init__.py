"""Activations of frozen layers: where a network is cut, the tables that its values are kept in, and who takes them."""
