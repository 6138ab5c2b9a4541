"""Run folders on disk: records, checkpoints and model bundles."""
