"""Which phases of a run use the activation cache: where its network can be cut, and where that pays."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ftkit.activation_cache.cache_reader import open_cut_finder
from ftkit.activation_cache.cut import Cut, CutFinder, NoCutError
from ftkit.activation_cache.policy import NO_GAIN, CutSize, decide
from ftkit.activation_cache.run_cache import RunCache
from ftkit.distributed.processes import main_first
from ftkit.models.parameter_groups import set_trainable
from ftkit.strategies.schedule import Phase

if TYPE_CHECKING:
    from ftkit.training.session import Session


def open_run_cache(session: Session, on_batch: Callable[[], None]) -> RunCache | None:
    """Find the cuts of the run's phases, and decide which of them use the cache; None where none does.

    Args:
        on_batch: As in `Activations`.
    """
    plan = session.plan
    if plan.cached_augmentations == 0:
        return None
    groups, phases = plan.schedule.groups, plan.schedule.phases
    if not plan.probe and all(len(phase.trainable) == len(groups) for phase in phases):
        return None
    head = frozenset({groups[-1].name})
    thawed = {phase.trainable for phase in phases} | ({head} if plan.probe else set())
    try:
        cut_finder = open_cut_finder(session.network, session.compute, plan.preprocessing)
        known = {trainable: _cut(cut_finder, session, trainable) for trainable in thawed}
    except NoCutError as error:
        session.listener.note(f"nothing is cached: the network can't be cut in two, since {error}")
        return None
    finally:
        session.network.requires_grad_(True)
    probe = known[head] if plan.probe else None
    found = [known[phase.trainable] for phase in phases]
    uses = decide(
        phases,
        [_size(cut) if isinstance(cut, Cut) else cut for cut in found],
        _size(probe) if isinstance(probe, Cut) else None,
        len(session.split("train")),
        len(session.split("val")),
        plan.cached_augmentations,
        plan.config.balance == "sampler",
        plan.config.cache.limit,
    )
    reasons: dict[str, list[str]] = {}
    for phase, use in zip(phases, uses, strict=True):
        if use.reason not in ("", NO_GAIN) and len(phase.trainable) < len(groups):
            reasons.setdefault(use.reason, []).append(_epochs(phase))
    for reason, epochs in reasons.items():
        session.listener.note(f"{', '.join(epochs)}: nothing is cached, since {reason}")
    cache = RunCache(
        session,
        cut_finder,
        dict(zip(phases, found, strict=True)),
        dict(zip(phases, uses, strict=True)),
        probe,
        on_batch,
    )
    if isinstance(probe, Cut) or any(use.cut is not None for use in uses):
        # Files that aren't remembered are read by the main process, and by it alone.
        main_first(lambda: [session.image_digests(split) for split in ("train", "val")])
    return cache


def _cut(cut_finder: CutFinder, session: Session, trainable: frozenset[str]) -> Cut | str:
    plan = session.plan
    if len(trainable) == len(plan.schedule.groups):
        return "everything trains"
    modes = set_trainable(session.network, plan.schedule.groups, trainable, plan.config.train_bn)
    try:
        return cut_finder.cut(modes)
    except NoCutError as error:
        return str(error)


def _size(cut: Cut) -> CutSize:
    return CutSize(cut.name, cut.depth, cut.nbytes)


def _epochs(phase: Phase) -> str:
    first, last = phase.start + 1, phase.stop
    return f"epoch {first}" if first == last else f"epochs {first} to {last}"
