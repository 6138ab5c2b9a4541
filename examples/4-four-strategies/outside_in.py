from dataclasses import dataclass

from ftkit.api import Strategy, hookimpl


@dataclass(frozen=True)
class OutsideIn(Strategy):
    """The first and the last layer group, then all groups at a tenth of the learning rate."""

    switch: int = 5

    def lr_scales(self, epoch, epochs, groups):
        outer = {groups[0]: 0.1, groups[-1]: 1.0}
        return outer if epoch < self.switch else dict.fromkeys(groups, 0.1)


@hookimpl
def ftkit_strategies():
    return {"outside-in": OutsideIn}
