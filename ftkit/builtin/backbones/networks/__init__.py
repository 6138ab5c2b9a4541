"""Networks that come with ftkit. These modules import torch, so they are imported only to build one."""
