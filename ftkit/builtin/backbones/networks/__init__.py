"""Networks of ftkit. These modules import torch, so they are imported only to build a network."""
