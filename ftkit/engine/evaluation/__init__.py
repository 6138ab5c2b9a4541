"""How good models are, by themselves and beside each other."""
