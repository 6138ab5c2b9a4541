"""One network of each kind of layers, for the quick suite; all others are among the long tests."""

QUICK = frozenset(
    {
        "alexnet",  # hidden layers before the head
        "cifar_resnet20",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "efficientnet_lite0",  # padding that depends on the size
        "googlenet",  # auxiliary classifiers
        "lenet",  # grey images
        "mobilenet_v3_small",
        "resnet18",
        "squeezenet1_1",  # a convolution as its head
        "swin_t",
        "vit_b_16",  # made for one size
    }
)
