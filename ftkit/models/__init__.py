"""Networks: building, pretrained weights, layer groups, the head, and bundles."""
