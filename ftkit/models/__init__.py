"""Backbones: descriptions, building, layer groups, and changes to the head."""
