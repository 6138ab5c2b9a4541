"""Plain data that describes backbones, datasets, strategies and schedules; standard library only."""
