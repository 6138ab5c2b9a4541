"""What a strategy must keep: it is pure, its groups own the network, frozen is frozen, and resuming is exact."""

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
from ftkit.testing.contract import ContractError, require, require_frozen_dataclass
from ftkit.testing.copies import sent
from ftkit.testing.distributed_checks import check_together
from ftkit.testing.pictures import make_image_folder

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan
    from ftkit.runs.run_folder import RunFolder
    from ftkit.training.events import Listener

LENGTHS = (1, 2, 3, 5, 6, 10, 30)
"""Epochs of the runs that a strategy is asked about; it may refuse some, by a `RequestError`."""
TRAINED = 6
"""Most epochs of the run that is trained."""


def check_strategy(
    strategy: Strategy, backbone: Backbone | None = None, lengths: Sequence[int] = LENGTHS, processes: int = 1
) -> None:
    """Check a strategy, and train with it for some epochs on a dozen drawn images, a second or two.

    Args:
        backbone: What it is checked on; by default ResNet-20 for small images.
        lengths: Epochs of runs to ask it about.
        processes: With 2 or more, so many train together too, which takes some ten seconds. The strategy's class, and
            the backbone, must be such that another process can import them.

    Raises:
        ContractError: It isn't a frozen dataclass, doesn't pickle, answers the same question in two ways, leaves
            a parameter to no group, refuses every length; or a run with it moves what is frozen, ends elsewhere
            when it is stopped and resumed, or in several processes fails or ends with weights that differ.
    """
    require_frozen_dataclass(strategy)
    backbone = backbone or _default_backbone()
    schedules = _schedules(strategy, backbone, lengths)
    require(bool(schedules), f"it refuses runs of {', '.join(map(str, lengths))} epochs", "let one of them be")
    _check_pure(strategy, backbone, schedules)
    _check_groups(strategy, backbone)
    trained = [length for length in schedules if length <= TRAINED]
    if trained:
        _check_run(strategy, backbone, schedules[max(trained)], processes)


def _default_backbone() -> Backbone:
    from ftkit.plugins import Registry

    return Registry().backbones.get("cifar_resnet20")


def _schedules(strategy: Strategy, backbone: Backbone, lengths: Sequence[int]) -> dict[int, Schedule]:
    """The schedules of the lengths that the strategy takes."""
    found, refusals = {}, list[RequestError]()
    for length in lengths:
        try:
            found[length] = make_schedule(strategy, backbone, length, type(strategy).__name__)
        except ImpureStrategyError as error:
            raise ContractError(error.message, error.hint) from None
        except RequestError as error:
            refusals.append(error)
    if not found and refusals:
        raise ContractError(f"it refuses every length; the last time: {refusals[-1].message}", refusals[-1].hint)
    return found


def _check_pure(strategy: Strategy, backbone: Backbone, schedules: Mapping[int, Schedule]) -> None:
    """The same question has the same answer from a copy in another process too; `make_schedule` asks again here."""
    try:
        copy = sent(strategy)
    except Exception as error:
        raise ContractError(f"it can't be pickled: {error}", "define its class at the top of a module") from error
    for length, schedule in reversed(list(schedules.items())):
        names = [group.name for group in schedule.groups]
        require(strategy.groups(backbone) == schedule.groups, "its groups are not the same when asked again")
        for epoch in (*reversed(range(length)), *range(length)):
            for asked in (strategy, copy):
                row = dict(asked.lr_scales(epoch, length, names))
                require(
                    row == dict(schedule.rows[epoch]),
                    f"lr_scales({epoch}, {length}, ...) gave {dict(schedule.rows[epoch])}, then {row}",
                    "let it depend on its arguments and fields alone",
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
        whole, cut = (_Trial(strategy, backbone, schedule, data, folder / name) for name in ("whole", "cut"))
        whole.train()
        whole.check_frozen()
        cut.train(stop_after=3)
        require(cut.weights() == whole.weights(), "a run that is stopped and resumed ends with other weights")
        if processes > 1:
            (folder / "notes").mkdir()
            make = partial(_planned, strategy, backbone, len(schedule.rows), data, folder / "together")
            check_together(make, processes, folder / "notes")
            _Trial(strategy, backbone, schedule, data, folder / "together", again=True).check_frozen()


def _planned(strategy: Strategy, backbone: Backbone, epochs: int, data: Path, output: Path) -> tuple[Plan, RunFolder]:
    """A plan that this process has made itself, as each does."""
    schedule = make_schedule(strategy, backbone, epochs, type(strategy).__name__)
    trial = _Trial(strategy, backbone, schedule, data, output)
    return trial.plan, trial.run


class _Trial:
    """A run of a schedule on drawn images, with a checkpoint of each epoch."""

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
        # The strategy need not be registered anywhere: the plan is given it as it is.
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
        """Train to the end; with `stop_after`, a signal comes after so many steps, and the run is resumed."""
        from ftkit.errors import RunInterrupted
        from ftkit.training.trainer import train

        if stop_after is None:
            train(self.plan, self.run)
            return
        try:
            train(self.plan, self.run, _stopper(stop_after))
        except RunInterrupted:
            train(self.plan, self.run, resume=True)

    def weights(self) -> bytes:
        return (self.run.last / "model.safetensors").read_bytes()

    def check_frozen(self) -> None:
        """Parameters and buffers that are frozen in an epoch are the same bytes after it as before."""
        import torch

        from ftkit.runs.checkpoint import read_model

        owner = self._owners()
        states = {int(place.name[1:5]): read_model(place) for place in self.run.checkpoints.glob("e*-s00000")}
        for epoch in sorted(states):
            before, after = states[epoch], states.get(epoch + 1)
            for name in before if after is not None else ():
                frozen = not owner[name] & self.plan.schedule.rows[epoch].keys()
                moved = after is not None and not torch.equal(before[name], after[name])
                require(not (frozen and moved), f"{name} moved in epoch {epoch + 1}, in which it was frozen")

    def _owners(self) -> dict[str, set[str]]:
        """By parameter or buffer the groups that it trains with: a buffer, as BatchNorm's, with its module."""
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


def _stopper(steps: int) -> Listener:
    """Sends this process a signal after so many steps, as an impatient person would."""
    from ftkit.training.events import Listener, StepDone

    class Stopper(Listener):
        left = steps

        def step_done(self, event: StepDone) -> None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    return Stopper()
