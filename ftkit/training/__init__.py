"""Training: the trainer, its state, and what runs around each phase, epoch and step."""
