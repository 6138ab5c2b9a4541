"""Plans runs; strategy and learning rate `auto` are replaced by what measurements of the data recommend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ftkit.config.choices import AUTO as MEASURED
from ftkit.config.load import Resolved
from ftkit.config.schema import Config
from ftkit.planning.resolve import make_plan
from ftkit.planning.run_plan import Plan
from ftkit.runs.run_folder import RunFolder
from ftkit.strategies.recommendation_rules import AUTO


def plan_run(
    resolved: Resolved,
    tell: Callable[[str], None] | None = None,
    run: RunFolder | None = None,
    fetch: bool = False,
) -> Plan:
    """Plan a run; for strategy `auto` and learning rate `auto`, measurements come first, which may take minutes.

    Args:
        tell: Called with a line before the measurement, and before a long scan of the images.
        run, fetch: See `make_plan`.

    Raises:
        RequestError: A name, a value or the data can't be used.
        FtkitError: The measurement failed: weights are missing, or an image can't be read.
    """
    chosen, notes = resolve_auto(resolved, tell)
    if chosen.config.optimizer.lr == MEASURED:
        from ftkit.experiments.rate_race import race_rates

        chosen, reason = race_rates(chosen, tell)
        notes = (*notes, reason)
    decided = make_plan(chosen, tell, run, fetch)
    return replace(decided, notes=(*notes, *decided.notes))


def measured_key(config: Config) -> str | None:
    """The first number of a config that is measured for each run; None where none is `auto`."""
    numbers = {"batch_size": config.batch_size, "optimizer.lr": config.optimizer.lr}
    return next((key for key, value in numbers.items() if value == MEASURED), None)


def resolve_auto(resolved: Resolved, tell: Callable[[str], None] | None = None) -> tuple[Resolved, tuple[str, ...]]:
    """A request with the recommended strategy and rates in place of `auto`, and notes for its plan with the reasons.

    Args and errors as in `plan_run`.
    """
    if resolved.config.strategy.name != AUTO:
        return resolved, ()
    from ftkit.experiments.recommend import recommend

    recommendation = recommend(resolved, resolved.sources, tell)
    return recommendation.resolved, recommendation.notes
