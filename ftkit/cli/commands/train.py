"""`ftkit train`: run a plan, show its progress, and print the result and the next commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ftkit.cli import multiprocess_errors
from ftkit.cli.launcher import launch_from_flags
from ftkit.cli.launcher import run as run_agent
from ftkit.cli.options import Json, with_request
from ftkit.cli.output import console, streams
from ftkit.cli.output.training.run_result import result_json, result_lines
from ftkit.distributed import launch_env
from ftkit.errors import FtkitError, RequestError, shell_word

if TYPE_CHECKING:
    from ftkit.cli.options import Request
    from ftkit.config.load import Resolved
    from ftkit.planning.run_plan import Plan
    from ftkit.runs.run_folder import RunFolder
    from ftkit.training.train import Outcome

app = typer.Typer()

PROCESSES = "Several processes"
RESUME, NEWEST = "--resume", ":newest:"

Resume = Annotated[
    str | None,
    typer.Option(RESUME, metavar="[RUN]", help="Resume a run with its own config; without RUN, the newest."),
]
Extend = Annotated[
    int | None, typer.Option("--extend", metavar="EPOCHS", min=1, help="With --resume: number of further epochs.")
]
OtherWorldSize = Annotated[
    bool, typer.Option("--allow-world-size-change", help="With --resume: allow another number of processes.")
]
Processes = Annotated[
    int | None,
    typer.Option("--num-processes", metavar="N", help="Processes on this machine.", rich_help_panel=PROCESSES),
]
Machines = Annotated[
    int | None, typer.Option("--nnodes", metavar="N", help="Number of machines.", rich_help_panel=PROCESSES)
]
MachineRank = Annotated[
    int | None,
    typer.Option("--node-rank", metavar="N", help="Rank of this machine, from 0.", rich_help_panel=PROCESSES),
]
Endpoint = Annotated[
    str | None,
    typer.Option("--rdzv-endpoint", metavar="HOST:PORT", help="Address of machine 0.", rich_help_panel=PROCESSES),
]


class TrainCommand(TyperCommand):
    """Accepts `--resume` without a value, which the parser has no option type for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = [
            f"{RESUME}={NEWEST}" if word == RESUME and (after is None or after.startswith("-")) else word
            for word, after in zip(args, [*args[1:], None], strict=False)
        ]
        return super().parse_args(ctx, words)


@app.command(cls=TrainCommand, epilog="Example: ftkit train --data photos --strategy freeze --epochs 5")
@with_request
def train(
    ctx: typer.Context,
    request: Request,
    resume: Resume = None,
    extend: Extend = None,
    other_world: OtherWorldSize = False,
    num_processes: Processes = None,
    nnodes: Machines = None,
    node_rank: MachineRank = None,
    rdzv_endpoint: Endpoint = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and exit.")] = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Don't show the plan and the progress.")] = False,
) -> None:
    """Fine-tune a backbone on images and keep the best model."""
    launch = launch_from_flags(num_processes, nnodes, node_rank, rdzv_endpoint)
    if launch is not None and not dry_run:
        with streams.stdout_for_children():
            raise SystemExit(run_agent(launch, ctx.find_root().obj))
    multiprocess_errors.stop_with_agent()
    quiet = quiet or launch_env.rank() > 0
    from ftkit.cli.commands.plan import plan_json, show

    if resume is None:
        _check_only_with_resume({"--extend": extend, "--allow-world-size-change": other_world})
        run, resolved = None, request.resolve()
    else:
        run, resolved = _resumed_run(request, resume, extend)
    world_size = launch.processes * launch.nodes if launch is not None else launch_env.world()
    plan = replace(_plan(resolved, run, quiet, fetch=run is None and not dry_run), world_size=world_size)
    if dry_run:
        console.print_json(plan_json(plan)) if json else show(plan, console.out())
        return
    if not quiet and not json:
        show(plan, console.err())
    outcome = _train(plan, run, quiet, extend is not None, other_world)
    if launch_env.rank() == 0:
        _print_result(plan, outcome, json, quiet)
        _complete(plan, outcome, quiet)


def _check_only_with_resume(flags: dict[str, object]) -> None:
    for name, value in flags.items():
        if value:
            raise RequestError(f"{name} has no effect without {RESUME}", f"give {RESUME} RUN too")


def _resumed_run(request: Request, resume: str, extend: int | None) -> tuple[Path, Any]:
    """The run to resume, and its configuration."""
    from ftkit.training.preparation.resume_request import extended, latest_unfinished, own_request

    if request.file is not None:
        raise RequestError(f"--config {request.file}: a resumed run keeps its own config", "drop it")

    def runs_dir() -> Path:
        return Path(request.resolve().config.output)

    if resume == NEWEST:
        resume = str(latest_unfinished(runs_dir()))
        console.note(f"resuming {resume}")
    run, resolved = own_request(resume, runs_dir, request.resolve)
    return run, extended(resolved, extend) if extend else resolved


def _plan(resolved: Resolved, run: Path | None, quiet: bool, fetch: bool) -> Plan:
    """The plan. Of several processes the main one goes first, so that downloads are there for the others."""
    from ftkit.cli.commands.plan import complete
    from ftkit.runs.run_folder import RunFolder

    folder = RunFolder(run) if run else None
    if launch_env.world() == 1:
        return complete(resolved, None if quiet else console.note, folder, fetch)
    from ftkit.distributed.processes import main_first
    from ftkit.models.compute.devices import join_processes
    from ftkit.strategies.recommendation_rules import AUTO

    if resolved.config.strategy.name == AUTO:
        raise RequestError("strategy 'auto' works in one process only", "run ftkit advise, and give its strategy")
    if resolved.config.budget not in (None, AUTO):
        raise RequestError("--budget works in one process only", "search in one process, then train with its config")
    if resolved.config.optimizer.lr == AUTO:
        raise RequestError("learning rate 'auto' works in one process only", "run ftkit plan, and give its rate")
    join_processes(resolved.config)
    named = _with_same_backbone(resolved)
    planned = main_first(lambda: complete(named, None, folder, fetch))
    return planned if run else _with_note(planned)


def _with_note(plan: Plan) -> Plan:
    """The plan with a note on what several processes leave out."""
    from ftkit.recipe_search.recipes import ONE_PROCESS, why_no_race

    if plan.config.budget is None or why_no_race(plan) != ONE_PROCESS:
        return plan
    return replace(plan, notes=(*plan.notes, f"{ONE_PROCESS}; here the config is trained as it is"))


def _with_same_backbone(resolved: Resolved) -> Resolved:
    """The request with the backbone that the main process chooses, since machines may differ."""
    from dataclasses import asdict

    from ftkit.config.choices import AUTO
    from ftkit.distributed.processes import run_on_main
    from ftkit.planning.backbone_choice import BackboneChoice, choose_backbone, with_backbone

    if resolved.config.backbone != AUTO:
        return resolved

    def choose() -> dict[str, Any]:
        choice = choose_backbone(resolved)
        assert choice is not None, "the backbone is auto"
        return asdict(choice)

    return with_backbone(resolved, BackboneChoice(**run_on_main(choose)))


def _train(plan: Plan, resumed: Path | None, quiet: bool, extending: bool, other_world: bool) -> Outcome:
    from ftkit.cli.output.training.progress import LiveDisplay, make_display
    from ftkit.recipe_search.search_run import execute_plan, open_planned
    from ftkit.runs.run_folder import RunFolder
    from ftkit.training.preparation.resume_request import extend, keep_place

    run: RunFolder = RunFolder(resumed) if resumed else open_planned(plan)
    if resumed:
        keep_place(run, plan)
    if extending and launch_env.rank() == 0:
        extend(run, plan)
    multiprocess_errors.note_run(run.path)
    display = make_display(run, plan.config.epochs, quiet)
    try:
        return execute_plan(plan, run, display, resume=resumed is not None, other_world=other_world)
    except FtkitError as error:
        # The folder of a run that failed before its first step is removed.
        if launch_env.rank() == 0 and run.path.is_dir():
            run.write_log([f"error: {error.message}", *([f"hint: {error.hint}"] if error.hint else [])])
        raise
    finally:
        if isinstance(display, LiveDisplay):
            display.close()


def _print_result(plan: Plan, outcome: Outcome, json: bool, quiet: bool) -> None:
    try:
        if json:
            console.print_json(result_json(outcome))
        else:
            lines = result_lines(plan, outcome, quiet)
            outcome.run.write_log(lines)
            for line in lines:
                console.out().print(line, soft_wrap=True)
        streams.finish()
    except streams.StdoutClosed:
        # The run is complete and on disk.
        console.note(f"stdout is closed; see the result with ftkit runs show {shell_word(outcome.run.path)}")


def _complete(plan: Plan, outcome: Outcome, quiet: bool) -> None:
    from ftkit.reports.after_training import complete_run

    tell = (lambda line: None) if quiet else console.note
    written = complete_run(outcome.plan or plan, outcome.run, console.warn, tell)
    if written is not None and not quiet:
        console.note(f"report: {written}")
