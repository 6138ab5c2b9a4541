"""What is only computed forward: streams of images put through a network, and predictions."""
