"""Cross-fitting: a model for each fold of the training images, and the final model made of them."""
