"""The report that compares several runs, and its sections."""
