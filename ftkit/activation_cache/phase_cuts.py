"""Where the network of a run can be cut in each phase, and which phases use the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from functools import partial
from typing import TYPE_CHECKING

from ftkit.activation_cache.cache_reader import open_cut_finder
from ftkit.activation_cache.cutting.cut import Cut, NoCutError
from ftkit.activation_cache.policy import EVERYTHING_TRAINS, NO_GAIN, CutSize
from ftkit.activation_cache.run_cache import RunCache
from ftkit.distributed.processes import main_first
from ftkit.models.parameter_groups import Modes, modes_of, set_trainable
from ftkit.strategies.schedule import Phase

if TYPE_CHECKING:
    from ftkit.training.session import Session


def open_run_cache(session: Session, on_batch: Callable[[], None]) -> RunCache | None:
    """Cut the network for each phase, and decide which of them use the cache; None where none can.

    Args:
        on_batch: See `RunCache`.
    """
    plan, policy = session.plan, session.plan.cache_policy
    if not policy.needs_cuts:
        return None
    head = frozenset({plan.schedule.groups[-1].name})
    cached = [phase.trainable for phase in policy.phases if not policy.reason(phase)]
    wanted = list(dict.fromkeys([*cached, head] if plan.probe else cached))
    cut_finder = open_cut_finder(session.network, session.compute, plan.preprocessing)
    try:
        known = dict(zip(wanted, cut_finder.cuts([_modes(session, some) for some in wanted]), strict=True))
        eval_cuts = _eval_cuts([cut for cut in known.values() if isinstance(cut, Cut)], session)
    except NoCutError as error:
        session.listener.note(f"nothing is cached: the network can't be split into two parts: {error}")
        return None
    finally:
        session.network.requires_grad_(True)
    probe = known[head] if plan.probe else None
    cuts = {phase: policy.reason(phase) or known[phase.trainable] for phase in policy.phases}
    uses = dict(zip(policy.phases, policy.decide([_size(cut) for cut in cuts.values()], _size_of(probe)), strict=True))
    reasons: dict[str, list[str]] = {}
    for phase, use in uses.items():
        if use.reason not in ("", NO_GAIN, EVERYTHING_TRAINS):
            reasons.setdefault(use.reason, []).append(_epochs(phase))
    for reason, epochs in reasons.items():
        session.listener.note(f"{', '.join(epochs)}: nothing is cached: {reason}")
    if isinstance(probe, Cut) or any(use.cut is not None for use in uses.values()):
        # Files without a known digest are read by the main process alone.
        main_first(lambda: [session.image_digests(split) for split in ("train", "val")])
    return RunCache(session, cut_finder, cuts, eval_cuts, uses, probe, on_batch)


def _eval_cuts(cuts: Sequence[Cut], session: Session) -> dict[str, Cut]:
    """Cuts as validation computes them, by name.

    Raises:
        NoCutError: In the precision of validation, the two parts don't compute what the network computes.
    """
    if not cuts or session.evaluation == session.compute:
        return {cut.name: cut for cut in cuts}
    modes = modes_of(session.network)
    try:
        session.network.eval()
        cut_finder = open_cut_finder(session.network, session.evaluation, session.plan.preprocessing)
        return {cut.name: cut_finder.cut_at(cut.name) for cut in cuts}
    finally:
        modes.apply()


def _modes(session: Session, trainable: Set[str]) -> Callable[[], Modes]:
    plan = session.plan
    return partial(set_trainable, session.network, plan.schedule.groups, trainable, plan.config.train_bn)


def _size(cut: Cut | str) -> CutSize | str:
    return cut if isinstance(cut, str) else CutSize(cut.name, cut.depth, cut.nbytes)


def _size_of(cut: Cut | str | None) -> CutSize | None:
    return CutSize(cut.name, cut.depth, cut.nbytes) if isinstance(cut, Cut) else None


def _epochs(phase: Phase) -> str:
    first, last = phase.start + 1, phase.stop
    return f"epoch {first}" if first == last else f"epochs {first} to {last}"
