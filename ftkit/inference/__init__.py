"""Prediction: images in, class scores out, in constant memory."""
