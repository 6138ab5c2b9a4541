"""Strategies and schedules: which layer groups train in which epoch, and at what learning rate."""
