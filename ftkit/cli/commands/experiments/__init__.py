"""The commands that train or combine several models, or measure before a training."""
