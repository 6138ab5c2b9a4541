"""The contract of a strategy: it is pure, its groups cover the network, frozen layers stay so, resuming is exact."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ftkit.api import Backbone, RequestError, Schedule, Strategy, make_schedule
from ftkit.strategies.schedule import ImpureStrategyError
from ftkit.testing.contract import ContractError, require, require_frozen_dataclass, require_picklable
from ftkit.testing.distributed_checks import check_distributed
from ftkit.testing.sample_images import make_image_folder

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan
    from ftkit.runs.run_folder import RunFolder
    from ftkit.training.events import Listener

LENGTHS = (1, 2, 3, 5, 6, 10, 30)
"""Lengths in epochs for which schedules are made; a strategy may refuse some with a `RequestError`."""
TRAINED = 6
"""Most epochs of the run that is executed."""


def check_strategy(
    strategy: Strategy, backbone: Backbone | None = None, lengths: Sequence[int] = LENGTHS, processes: int = 1
) -> None:
    """Check a strategy instance, and train a few epochs on a dozen generated images, which takes a second or two.

    Args:
        backbone: The backbone to train; by default ResNet-20 for small images.
        lengths: Lengths of runs, in epochs, for which schedules are made.
        processes: With 2 or more, also train in that many processes, which takes about ten seconds. The strategy's
            class and the backbone must be importable in another process.

    Raises:
        ContractError: The class isn't a frozen dataclass, or its instance can't be pickled; `lr_scales` isn't pure; a
            parameter is in no group; every length is refused; or in a run frozen values change, a resumed run ends
            with other weights, or training in several processes fails or ends with different weights.
    """
    require_frozen_dataclass(strategy)
    backbone = backbone or _default_backbone()
    schedules = _schedules(strategy, backbone, lengths)
    require(bool(schedules), f"it refuses runs of {', '.join(map(str, lengths))} epochs", "accept one of them")
    _check_pure(strategy, backbone, schedules)
    _check_groups(strategy, backbone)
    trained = [length for length in schedules if length <= TRAINED]
    if trained:
        _check_run(strategy, backbone, schedules[max(trained)], processes)


def _default_backbone() -> Backbone:
    from ftkit.plugins import Registry

    return Registry().backbones.get("cifar_resnet20")


def _schedules(strategy: Strategy, backbone: Backbone, lengths: Sequence[int]) -> dict[int, Schedule]:
    """The schedules of the lengths that the strategy accepts."""
    found, refusals = {}, list[RequestError]()
    for length in lengths:
        try:
            found[length] = make_schedule(strategy, backbone, length, type(strategy).__name__)
        except ImpureStrategyError as error:
            raise ContractError(error.message, error.hint) from None
        except RequestError as error:
            refusals.append(error)
    if not found and refusals:
        raise ContractError(f"it refuses every length; the last error: {refusals[-1].message}", refusals[-1].hint)
    return found


def _check_pure(strategy: Strategy, backbone: Backbone, schedules: Mapping[int, Schedule]) -> None:
    """Repeated calls give the same numbers, also of a pickled copy."""
    copy = require_picklable(strategy)
    for length, schedule in reversed(list(schedules.items())):
        names = [group.name for group in schedule.groups]
        require(strategy.groups(backbone) == schedule.groups, "its groups differ in a second call")
        for epoch in (*reversed(range(length)), *range(length)):
            for instance in (strategy, copy):
                row = dict(instance.lr_scales(epoch, length, names))
                require(
                    row == dict(schedule.rows[epoch]),
                    f"lr_scales({epoch}, {length}, ...) gave {dict(schedule.rows[epoch])}, then {row}",
                    "compute it from the arguments and fields alone",
                )


def _check_groups(strategy: Strategy, backbone: Backbone) -> None:
    from ftkit.models.model_size import build_on_meta
    from ftkit.models.parameter_groups import assign

    network = strategy.adapt(build_on_meta(backbone, 3), backbone)
    assign(network, strategy.groups(backbone))


def _check_run(strategy: Strategy, backbone: Backbone, schedule: Schedule, processes: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        layout = {"train": {"a": 6, "b": 6}, "val": {"a": 2, "b": 2}}
        data = make_image_folder(folder / "data", layout, (32, 32))
        whole, cut = (_TestRun(strategy, backbone, schedule, data, folder / name) for name in ("whole", "cut"))
        whole.train()
        whole.check_frozen()
        cut.train(stop_after=3)
        require(cut.weights() == whole.weights(), "a run that is stopped and resumed ends with different weights")
        if processes > 1:
            (folder / "results").mkdir()
            make = partial(_make_plan, strategy, backbone, len(schedule.rows), data, folder / "distributed")
            check_distributed(make, processes, folder / "results")
            _TestRun(strategy, backbone, schedule, data, folder / "distributed", again=True).check_frozen()


def _make_plan(strategy: Strategy, backbone: Backbone, epochs: int, data: Path, output: Path) -> tuple[Plan, RunFolder]:
    """The plan and its run folder; each process makes its own."""
    schedule = make_schedule(strategy, backbone, epochs, type(strategy).__name__)
    test_run = _TestRun(strategy, backbone, schedule, data, output)
    return test_run.plan, test_run.run


class _TestRun:
    """A run on generated images, with a checkpoint of each epoch."""

    def __init__(
        self, strategy: Strategy, backbone: Backbone, schedule: Schedule, data: Path, output: Path, again: bool = False
    ) -> None:
        import ftkit
        from ftkit.runs.run_folder import RunFolder
        from ftkit.training.preparation.open_run import open_run

        plan: Plan = ftkit.plan(
            dataset={"name": "folder", "root": str(data)},
            backbone="cifar_resnet20",
            strategy="full",
            weights="none",
            epochs=len(schedule.rows),
            batch_size=4,
            workers=0,
            augment="light",
            device="cpu",
            output=str(output),
            name="run",
            checkpoint={"keep": len(schedule.rows) + 1, "min_seconds": 0},
        )
        # Replaced in the plan, since the strategy may not be registered under a name.
        self.plan = replace(
            plan,
            strategy=strategy,
            schedule=schedule,
            backbone=backbone,
            preprocessing=backbone.preprocessing,
            group_parameters=None,
        )
        self.run = RunFolder(output / "run") if again else open_run(self.plan)

    def train(self, stop_after: int | None = None) -> None:
        """Train to the end; with `stop_after`, stop the run by a signal after that many steps, and resume it."""
        from ftkit.errors import RunInterrupted
        from ftkit.training.train import train

        if stop_after is None:
            train(self.plan, self.run)
            return
        try:
            train(self.plan, self.run, _stop_after_steps(stop_after))
        except RunInterrupted:
            train(self.plan, self.run, resume=True)

    def weights(self) -> bytes:
        return (self.run.last / "model.safetensors").read_bytes()

    def check_frozen(self) -> None:
        """Require that parameters and buffers keep their bytes in epochs in which they are frozen."""
        import torch

        from ftkit.runs.checkpoint_files import read_model

        owner = self._owners()
        states = {int(place.name[1:5]): read_model(place) for place in self.run.checkpoints.glob("e*-s00000")}
        for epoch in sorted(states):
            before, after = states[epoch], states.get(epoch + 1)
            for name in before if after is not None else ():
                frozen = not owner[name] & self.plan.schedule.rows[epoch].keys()
                changed = after is not None and not torch.equal(before[name], after[name])
                require(not (frozen and changed), f"{name} changed in epoch {epoch + 1}, in which it was frozen")

    def _owners(self) -> dict[str, set[str]]:
        """The layer groups of each parameter and buffer; a buffer belongs to the groups of its module's parameters."""
        from ftkit.models.model_size import build_on_meta
        from ftkit.models.parameter_groups import assign

        network = self.plan.strategy.adapt(build_on_meta(self.plan.backbone, self.plan.num_classes), self.plan.backbone)
        members = assign(network, self.plan.schedule.groups)
        owner = {name: {group} for group, names in members.items() for name in names}
        beside = {name.rpartition(".")[0]: set[str]() for name in owner}
        for name, groups in owner.items():
            beside[name.rpartition(".")[0]] |= groups
        every = set(members)
        return {name: owner.get(name, beside.get(name.rpartition(".")[0], every)) for name in network.state_dict()}


def _stop_after_steps(steps: int) -> Listener:
    """A listener that sends SIGTERM to this process after a number of steps."""
    from ftkit.training.events import Listener, StepDone

    class Stopper(Listener):
        left = steps

        def step_done(self, event: StepDone) -> None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    return Stopper()
