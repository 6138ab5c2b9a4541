"""`ftkit train`: execute a plan, show how it goes, and say what to do with the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ftkit.cli import multiprocess_errors
from ftkit.cli.launcher import launch_from_flags
from ftkit.cli.launcher import run as run_agent
from ftkit.cli.options import with_request
from ftkit.cli.output import console, streams
from ftkit.distributed import launch_env
from ftkit.errors import FtkitError, RequestError, plural, shell_word

if TYPE_CHECKING:
    from ftkit.cli.options import Request
    from ftkit.config.load import Resolved
    from ftkit.planning.run_plan import Plan
    from ftkit.runs.run_folder import RunFolder
    from ftkit.training.train import Outcome

app = typer.Typer()

SEVERAL = "Several processes"
EXAMPLE = "digits"
"""The dataset that comes with ftkit, whose users have yet to learn how to train on their own."""
RESUME, NEWEST = "--resume", ":newest:"


class TrainCommand(TyperCommand):
    """Takes `--resume` without a run too, which the parser has no word for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = [
            f"{RESUME}={NEWEST}" if word == RESUME and (after is None or after.startswith("-")) else word
            for word, after in zip(args, [*args[1:], None], strict=False)
        ]
        return super().parse_args(ctx, words)


@app.command(
    cls=TrainCommand, epilog="Example: ftkit train --data photos --backbone resnet18 --strategy freeze --epochs 5"
)
@with_request
def train(
    ctx: typer.Context,
    request: Request,
    resume: Annotated[
        str | None,
        typer.Option(
            RESUME,
            metavar="[RUN]",
            help="Go on with a run that stopped, by its own config; without RUN, the newest one.",
        ),
    ] = None,
    extend: Annotated[
        int | None, typer.Option("--extend", metavar="EPOCHS", min=1, help="With --resume: train so many epochs more.")
    ] = None,
    other_world: Annotated[
        bool,
        typer.Option(
            "--allow-world-size-change", help="With --resume: go on with another number of processes than before."
        ),
    ] = False,
    num_processes: Annotated[
        int | None,
        typer.Option("--num-processes", metavar="N", help="Processes on this machine.", rich_help_panel=SEVERAL),
    ] = None,
    nnodes: Annotated[
        int | None, typer.Option("--nnodes", metavar="N", help="Number of machines.", rich_help_panel=SEVERAL)
    ] = None,
    node_rank: Annotated[
        int | None,
        typer.Option("--node-rank", metavar="N", help="Which of them this is, from 0.", rich_help_panel=SEVERAL),
    ] = None,
    rdzv_endpoint: Annotated[
        str | None,
        typer.Option(
            "--rdzv-endpoint", metavar="HOST:PORT", help="Where machine 0 can be met.", rich_help_panel=SEVERAL
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The result, or the plan of --dry-run, as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No plan and no progress.")] = False,
) -> None:
    """Fine-tune a backbone on images and keep the best model."""
    launch = launch_from_flags(num_processes, nnodes, node_rank, rdzv_endpoint)
    if launch is not None and not dry_run:
        with streams.stdout_for_children():
            raise SystemExit(run_agent(launch, ctx.find_root().obj))
    multiprocess_errors.stop_with_agent()
    world = launch.processes * launch.nodes if launch is not None else launch_env.world()
    quiet = quiet or launch_env.rank() > 0
    from ftkit.cli.commands.plan import show

    if resume is None:
        _only_with_resume({"--extend": extend, "--allow-world-size-change": other_world})
        run, resolved = None, request.resolve()
    else:
        run, resolved = _own_request(request, resume, extend)
    plan = replace(_plan(resolved, run, quiet), world_size=world)
    if dry_run:
        console.print_json(plan.to_json()) if json else show(plan, console.out())
        return
    if not quiet and not json:
        show(plan, console.err())
    outcome = _execute(plan, run, quiet, extend is not None, other_world)
    if launch_env.rank() > 0:
        return
    try:
        if json:
            console.print_json({"run": str(outcome.run.path), "best": outcome.best, "epochs": outcome.records})
        else:
            _conclude(plan, outcome, quiet)
        streams.finish()
    except streams.StdoutClosed:
        # The run is done and on the disk, whoever was to read of it.
        console.note(f"stdout is closed; ftkit runs show {shell_word(outcome.run.path)} has the result")


def _only_with_resume(flags: dict[str, object]) -> None:
    for name, value in flags.items():
        if value:
            raise RequestError(f"{name}: there is no run to go on with", f"give {RESUME} RUN too")


def _own_request(request: Request, resume: str, extend: int | None) -> tuple[Path, Any]:
    """The run to go on with, and what it is resumed by."""
    from ftkit.training.preparation.resume_request import extended, latest_unfinished, own_request

    if request.file is not None:
        raise RequestError(f"--config {request.file}: a run that is resumed keeps its own config", "drop it")

    def runs_dir() -> Path:
        return Path(request.resolve().config.output)

    if resume == NEWEST:
        resume = str(latest_unfinished(runs_dir()))
        console.note(f"resuming {resume}")
    run, resolved = own_request(resume, runs_dir, request.resolve)
    return run, extended(resolved, extend) if extend else resolved


def _plan(resolved: Resolved, run: Path | None, quiet: bool) -> Plan:
    """The plan; of several processes the main one is first to find and load what it takes."""
    from ftkit.cli.commands.plan import complete
    from ftkit.runs.run_folder import RunFolder

    folder = RunFolder(run) if run else None
    if launch_env.world() == 1:
        return complete(resolved, None if quiet else console.note, folder)
    from ftkit.distributed.processes import main_first
    from ftkit.models.compute.devices import join
    from ftkit.strategies.recommendation_rules import AUTO

    if resolved.config.strategy.name == AUTO:
        raise RequestError("strategy 'auto' measures in one process", "run ftkit advise, and give what it names")
    join(resolved.config)
    return main_first(lambda: complete(resolved, None, folder))


def _execute(plan: Plan, resumed: Path | None, quiet: bool, extending: bool, other_world: bool) -> Outcome:
    from ftkit.cli.output.progress import LiveDisplay, make_display
    from ftkit.runs.run_folder import RunFolder
    from ftkit.training.preparation.open_run import open_run
    from ftkit.training.preparation.resume_request import extend, keep_place
    from ftkit.training.train import train

    run: RunFolder = RunFolder(resumed) if resumed else open_run(plan)
    if resumed:
        keep_place(run, plan)
    if extending and launch_env.rank() == 0:
        extend(run, plan)
    multiprocess_errors.note_run(run.path)
    display = make_display(run, plan.config.epochs, quiet)
    try:
        return train(plan, run, display, resume=resumed is not None, other_world=other_world)
    except FtkitError as error:
        # Where it was discarded, nothing has been trained.
        if launch_env.rank() == 0 and run.path.is_dir():
            run.write_log([f"error: {error.message}", *([f"hint: {error.hint}"] if error.hint else [])])
        raise
    finally:
        if isinstance(display, LiveDisplay):
            display.close()


def _conclude(plan: Plan, outcome: Outcome, quiet: bool) -> None:
    from ftkit.cli.output.progress import metrics_line, shown_labels
    from ftkit.cli.output.weight_drift_bars import weight_drift_lines

    last, labels = outcome.records[-1], shown_labels(plan)
    labels["loss"] = labels.pop("loss")
    best, run, out = outcome.best, outcome.run, console.out()
    skipped = sum(record.get("skipped_steps", 0) for record in outcome.records)
    early = f", stopped early after epoch {last['epoch']}" if outcome.stopped_early else ""
    lines = [
        *(weight_drift_lines(last["weight_drift"], last["epoch"]) if not quiet and last["epoch"] else ()),
        *_gain(outcome, plan.config.monitor),
        *(
            [f"{plural(skipped, 'step was', 'steps were')} left out: loss or gradients were not finite"]
            if skipped
            else ()
        ),
        f"best epoch {best['epoch']} of {plan.config.epochs}{early}: validation {metrics_line(best, labels)}",
        f"model: {run.model}",
        f"evaluate it:               ftkit evaluate {shell_word(run.path)}",
        f"predict your images:       ftkit predict IMAGE_OR_FOLDER --model {shell_word(run.path)}",
    ]
    if plan.config.dataset.name == EXAMPLE:
        lines.append("train on your own folder:  ftkit train --data FOLDER --backbone resnet18")
    run.write_log(lines)
    for line in lines:
        out.print(line, soft_wrap=True)


def _gain(outcome: Outcome, monitor: str) -> list[str]:
    """What fine-tuning added to the probe, where there was one."""
    first = outcome.records[0]
    if "probe_strength" not in first or len(outcome.records) < 2:
        return []
    key = f"val_{monitor}"
    before, after = first[key], outcome.best[key]
    if before is None or after is None:
        return [f"probe: {monitor} is not finite, so what fine-tuning added can't be told"]
    if outcome.best["epoch"] == 0:
        return [f"probe: {monitor} {before:.4f}; fine-tuning added nothing, so the model is the probe"]
    return [f"probe: {monitor} {before:.4f}; fine-tuning made it {after:.4f} ({after - before:+.4f})"]
