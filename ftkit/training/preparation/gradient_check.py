"""Checks before the run, on two images, that all parameters that are to train get a gradient.

A strategy may name layers that the network doesn't call, and a network may have branches that don't reach its output:
planned to train, they would stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ftkit.distributed.collectives import max_over_processes
from ftkit.errors import FtkitError, RequestError, one_line
from ftkit.models.compute.memory_format import preserve_state
from ftkit.models.logits import split_outputs
from ftkit.models.parameter_groups import preserve_modes, set_trainable
from ftkit.models.weights.files import first_names
from ftkit.plugin_errors import plugin_suffix
from ftkit.training.session import Session

DRAWS, DRAWS_OF_SEVERAL = 3, 8
"""Passes in train mode, in case a network leaves branches out at random; one more is in eval mode. With several
processes, each waits for the gradients of all, so there are more passes."""


@dataclass(frozen=True)
class GradientReach:
    """Which parameters that are to train get a gradient.

    Attributes:
        unreached: Names of those that get none.
        varies: Whether some get one in one pass and not in another.
    """

    unreached: frozenset[str] = frozenset()
    varies: bool = False


def require_gradients(session: Session) -> GradientReach:
    """Try a backward pass with all that the schedule ever trains, and report parameters without a gradient.

    It changes neither weights, nor buffers, nor random numbers.

    Raises:
        RequestError: A whole layer group, or a parameter that the strategy has added to the network, gets none.
        FtkitError: The network fails when gradients are computed.
    """
    plan, built = session.plan, session.built
    thawed = {group for phase in plan.schedule.phases for group in phase.trainable}
    if not thawed:
        return GradientReach()
    without, varies, known = set[str](), False, True
    try:
        with preserve_modes(session.network):
            without, varies = _without_gradient(session, thawed)
    except torch.OutOfMemoryError:
        known = False
    # Python's random numbers may choose other branches in each process; all must wait for the same gradients.
    varies = bool(max_over_processes(session.accelerator, int(varies)))
    if not known:
        session.listener.note("gradients weren't checked: memory ran out")
        return GradientReach(varies=varies)
    groups = {group: [name for name in names if name in without] for group, names in built.members.items()}
    _require_reached(groups, built.members, built.added, plan.config.strategy.name)
    for group, names in groups.items():
        if names:
            session.listener.note(
                f"{len(names)} of {len(built.members[group])} parameters of {group} get no gradient, so they stay as "
                f"they are: {first_names(names)}"
            )
    return GradientReach(frozenset(without), varies)


def _require_reached(
    without: Mapping[str, Sequence[str]], members: Mapping[str, Sequence[str]], added: Set[str], strategy: str
) -> None:
    idle = [name for names in without.values() for name in names if name in added]
    if idle:
        raise RequestError(
            f"strategy {strategy!r} trains {len(idle)} parameters that get no gradient, since the network doesn't use "
            f"the layers that they were put into: {first_names(idle, 3)}",
            "choose other layers in the strategy's options",
        )
    for group, names in without.items():
        if names and len(names) == len(members[group]):
            raise RequestError(
                f"strategy {strategy!r} trains layer group {group!r}, but none of its {len(names)} parameters gets a "
                f"gradient: {first_names(names, 3)}",
                "choose a strategy that freezes it, or another backbone; or fix the forward method of your backbone",
            )


def _without_gradient(session: Session, thawed: Set[str]) -> tuple[set[str], bool]:
    """Names of parameters that train and get no gradient; whether some get one in some passes only."""
    network, plan = session.network, session.plan
    modes = set_trainable(network, plan.schedule.groups, thawed, plan.config.train_bn)
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    reached = set[str]()
    hooks = [_when_reached(reached, name, parameter) for name, parameter in trained.items()]
    once, always = set[str](), set(trained)
    draws = DRAWS if session.world == 1 else DRAWS_OF_SEVERAL
    try:
        with preserve_state(network):
            for draw in range(draws + 1):
                reached.clear()
                modes.apply()
                if draw == draws:
                    network.eval()
                torch.manual_seed(draw)
                _backward(session)
                once, always = once | reached, always & reached
                if session.world == 1 and once == trained.keys():
                    break
    finally:
        for hook in hooks:
            hook.remove()
    return trained.keys() - once, once != always


def _when_reached(reached: set[str], name: str, parameter: nn.Parameter) -> torch.utils.hooks.RemovableHandle:
    """Record a parameter that gets a gradient, and drop the gradient at once, to save memory."""

    def note(tensor: Tensor) -> None:
        reached.add(name)
        tensor.grad = None

    handle: torch.utils.hooks.RemovableHandle = parameter.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]
    return handle


def _backward(session: Session) -> None:
    """Forward and backward pass on two images, as in a step."""
    preprocessing, compute = session.plan.preprocessing, session.compute
    generator = torch.Generator().manual_seed(0)
    images = compute.to_device(
        torch.randn(2, preprocessing.channels, preprocessing.size, preprocessing.size, generator=generator)
    )
    classes = session.plan.num_classes
    labels = session.plan.task.targets([0, 1 % classes], classes).to(session.device)
    try:
        with compute.autocast():
            outputs = session.network(images)
        logits, auxiliary = split_outputs(outputs)
        loss = session.loss(logits, labels, auxiliary)
        if loss.requires_grad:
            torch.autograd.backward(loss)
    except (torch.OutOfMemoryError, FtkitError):
        raise
    except Exception as error:  # a network may raise any exception
        raise FtkitError(
            f"backbone {session.plan.backbone.name} fails when gradients are computed: {type(error).__name__}: "
            f"{one_line(str(error))[:300]}{plugin_suffix(error)}",
            "choose another backbone or strategy; or fix the forward method of your backbone",
        ) from error
