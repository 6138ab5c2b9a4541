"""Built-in learning-rate curves."""
