"""Checks, statistics and label audits of datasets, and new splits, corrections and labelling queues."""
