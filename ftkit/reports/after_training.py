"""The report at the end of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ftkit.distributed import launch_env
from ftkit.errors import FtkitError, one_line, shell_word
from ftkit.evaluation.evaluator import ComputeOptions
from ftkit.planning.run_plan import Plan
from ftkit.reports.run_report import RunInputs, write_report
from ftkit.runs.run_folder import RunFolder


def report_at_end(plan: Plan, run: RunFolder, warn: Callable[[str], None]) -> Path | None:
    """Write the report of a run that has just ended, in the main process, if its config asks for one.

    The run is complete by then, so an error or an interrupt is only a warning.

    Args:
        warn: Called with lines on what is missing, and how to repeat it.

    Returns:
        The file; None without one.
    """
    if not plan.config.report or launch_env.rank() > 0:
        return None
    options = ComputeOptions(plan.config.device, cache=plan.config.cache.use)
    try:
        return write_report(run.path, None, None, options, warn, RunInputs(plan.resolved, plan.splits, plan.notes))
    except (Exception, KeyboardInterrupt) as error:
        reason = error.message if isinstance(error, FtkitError) else f"{type(error).__name__} {error}".strip()
        warn(f"no report: {one_line(reason)}; to write it: ftkit report {shell_word(run.path)}")
        return None
