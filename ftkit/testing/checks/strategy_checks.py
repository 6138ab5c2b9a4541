"""The contract of a strategy: it is pure, its groups cover the network, frozen layers stay so, resuming is exact."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ftkit.api import Backbone, RequestError, Schedule, Strategy, make_schedule
from ftkit.strategies.schedule import ImpureStrategyError
from ftkit.testing.contract import ContractError, require, require_frozen_dataclass, require_picklable
from ftkit.testing.distributed_checks import check_distributed
from ftkit.testing.short_run import ShortRun

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan
    from ftkit.runs.run_folder import RunFolder

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
    from ftkit.models.parameter_groups import assign_parameters

    network = strategy.adapt(build_on_meta(backbone, 3), backbone)
    assign_parameters(network, strategy.groups(backbone))


def _check_run(strategy: Strategy, backbone: Backbone, schedule: Schedule, processes: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        changes = {"strategy": strategy, "schedule": schedule, **_for_backbone(backbone)}
        whole, cut = (ShortRun(folder / name, len(schedule.rows), changes) for name in ("whole", "cut"))
        whole.train()
        _check_frozen(whole)
        cut.train(stop_after=3)
        require(cut.weights() == whole.weights(), "a run that is stopped and resumed ends with different weights")
        if processes > 1:
            (folder / "results").mkdir()
            make = partial(_make_plan, strategy, backbone, len(schedule.rows), folder / "distributed")
            check_distributed(make, processes, folder / "results")
            _check_frozen(ShortRun(folder / "distributed", len(schedule.rows), changes, exists=True))


def _for_backbone(backbone: Backbone) -> dict[str, object]:
    return {"backbone": backbone, "preprocessing": backbone.preprocessing, "group_parameters": None}


def _make_plan(strategy: Strategy, backbone: Backbone, epochs: int, output: Path) -> tuple[Plan, RunFolder]:
    """The plan and its run folder; each process makes its own."""
    schedule = make_schedule(strategy, backbone, epochs, type(strategy).__name__)
    run = ShortRun(output, epochs, {"strategy": strategy, "schedule": schedule, **_for_backbone(backbone)})
    return run.plan, run.folder


def _check_frozen(run: ShortRun) -> None:
    """Require that parameters and buffers keep their bytes in epochs in which they are frozen."""
    import torch

    from ftkit.runs.checkpoint_files import read_model

    owner = _owners(run.plan)
    states = {int(place.name[1:5]): read_model(place) for place in run.folder.checkpoints.glob("e*-s00000")}
    for epoch in sorted(states):
        before, after = states[epoch], states.get(epoch + 1)
        for name in before if after is not None else ():
            frozen = not owner[name] & run.plan.schedule.rows[epoch].keys()
            changed = after is not None and not torch.equal(before[name], after[name])
            require(not (frozen and changed), f"{name} changed in epoch {epoch + 1}, in which it was frozen")


def _owners(plan: Plan) -> dict[str, set[str]]:
    """The layer groups of each parameter and buffer; a buffer belongs to the groups of its module's parameters."""
    from ftkit.models.model_size import build_on_meta
    from ftkit.models.parameter_groups import assign_parameters

    network = plan.strategy.adapt(build_on_meta(plan.backbone, plan.num_classes), plan.backbone)
    members = assign_parameters(network, plan.schedule.groups)
    owner = {name: {group} for group, names in members.items() for name in names}
    beside = {name.rpartition(".")[0]: set[str]() for name in owner}
    for name, groups in owner.items():
        beside[name.rpartition(".")[0]] |= groups
    every = set(members)
    return {name: owner.get(name, beside.get(name.rpartition(".")[0], every)) for name in network.state_dict()}
