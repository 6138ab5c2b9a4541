"""Backbones described as data: layer groups, head, preprocessing and available weights. No torch here."""
