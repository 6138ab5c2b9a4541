"""Weights files: reading them, matching them to a network, and measuring weight drift."""
