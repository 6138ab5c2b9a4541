"""`ftkit train`: execute a plan, show how it goes, and say what to do with the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftkit.cli import console
from ftkit.cli.options import with_config
from ftkit.errors import RequestError

if TYPE_CHECKING:
    from ftkit.config.load import Resolved
    from ftkit.config.schema import Config
    from ftkit.engine.conclude import Outcome
    from ftkit.planning import Plan
    from ftkit.run_folder import RunFolder

app = typer.Typer()

FREE_ON_RESUME = {"workers", "device"}
"""Settings that can't change the result of a run."""


@app.command(epilog="Example: ftkit train --data photos --backbone resnet18 --strategy freeze --epochs 5")
@with_config
def train(
    resolved: Resolved,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Go on with a run that stopped, by its own config.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No plan and no progress.")] = False,
) -> None:
    """Fine-tune a backbone on images and keep the best model."""
    if resume is not None:
        resolved = _resolve_run(resume, resolved)
    from ftkit.cli.plan import complete, show

    plan = complete(resolved, None if quiet else console.note)
    if (not quiet and not json) or dry_run:
        show(plan, console.out() if dry_run else console.err())
    if dry_run:
        return
    outcome = _execute(plan, Path(resume) if resume is not None else None, quiet)
    if json:
        console.print_json({"run": str(outcome.run.path), "best": outcome.best, "epochs": outcome.records})
    else:
        _conclude(plan, outcome, quiet)


def _execute(plan: Plan, resumed: Path | None, quiet: bool) -> Outcome:
    from ftkit.cli.display import LiveDisplay, make_display
    from ftkit.engine.train import train
    from ftkit.library import open_run
    from ftkit.run_folder import RunFolder

    run: RunFolder = RunFolder(resumed) if resumed else open_run(plan)
    display = make_display(run, plan.config.epochs, quiet)
    try:
        return train(plan, run, display, resume=resumed is not None)
    finally:
        if isinstance(display, LiveDisplay):
            display.close()


def _resolve_run(run: str, given: Resolved) -> Resolved:
    """The config of the run to resume; flags and variables that would change its result are refused."""
    from ftkit.config.load import resolve

    config = Path(run) / "config.yaml"
    if not config.is_file():
        raise RequestError(f"--resume {run}: no run is there", "give a run folder, such as runs/NAME")
    own = resolve(config, {}, [], {})
    free: dict[str, tuple[str, object]] = {}
    for key, where in given.sources.items():
        if where.startswith(("--", "FTKIT_")):
            value = _value(given.config, key)
            if key in FREE_ON_RESUME:
                free[key] = (where, value)
            elif value != _value(own.config, key):
                raise RequestError(f"{where}: a run that is resumed keeps its own {key}", "drop it, or start a new run")
    return resolve(config, free, [], {}) if free else own


def _value(config: Config, key: str) -> object:
    """The value of a dotted key."""
    found: Any = config.model_dump(mode="json")
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _conclude(plan: Plan, outcome: Outcome, quiet: bool) -> None:
    from ftkit.cli.bars import movement_lines
    from ftkit.cli.display import figures_line

    last = outcome.records[-1]
    best, run, out = outcome.best, outcome.run, console.out()
    early = f", stopped early after {len(outcome.records)}" if outcome.stopped_early else ""
    lines = [
        *(movement_lines(last["moved"], last["epoch"]) if not quiet and last["epoch"] else ()),
        *_gain(outcome, plan.config.monitor),
        f"best epoch {best['epoch']} of {plan.config.epochs}{early}: validation "
        + figures_line(best, ("accuracy", "macro_f1", plan.config.monitor, "loss")),
        f"model: {run.model}",
        f"evaluate it:               ftkit evaluate {run.path}",
        f"predict your images:       ftkit predict IMAGE_OR_FOLDER --model {run.path}",
        "train on your own folder:  ftkit train --data FOLDER --backbone resnet18",
    ]
    for line in lines:
        out.print(line, soft_wrap=True)


def _gain(outcome: Outcome, monitor: str) -> list[str]:
    """What fine-tuning added to the probe, where there was one."""
    first = outcome.records[0]
    if "probe_strength" not in first or len(outcome.records) < 2:
        return []
    key = f"val_{monitor}"
    before, after = first[key], outcome.best[key]
    if outcome.best["epoch"] == 0:
        return [f"probe: {monitor} {before:.4f}; fine-tuning added nothing, so the model is the probe"]
    return [f"probe: {monitor} {before:.4f}; fine-tuning made it {after:.4f} ({after - before:+.4f})"]
