"""Files that are whole or not there: checkpoints, and model bundles."""
