"""What several processes ask and tell each other."""
