"""`ftkit sweep`: trials with values from a search space, on one machine or several, and the best one's config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.options import Json, Request, with_request
from ftkit.cli.output import console
from ftkit.config.field_types import seconds_of
from ftkit.distributed import launch_env
from ftkit.errors import RequestError, one_line, plural

if TYPE_CHECKING:
    from ftkit.config.load import Resolved
    from ftkit.experiments.sweeps.search_space import Point
    from ftkit.experiments.sweeps.sweep_claims import Claim
    from ftkit.experiments.sweeps.sweep_results import TrialFacts
    from ftkit.experiments.sweeps.sweep_trials import Sweep
    from ftkit.runs.run_folder import RunFolder
    from ftkit.training.events import Listener

app = typer.Typer()

SWEEP = "Sweep"
NO_LIMIT = 1_000_000

Study = Annotated[
    str,
    typer.Option(
        "--study",
        metavar="FILE|URL",
        help="File of the study, created if absent, or the URL of a database.",
        rich_help_panel=SWEEP,
        show_default=False,
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(
        "--trials",
        metavar="N",
        min=1,
        help="Trials of the study in total, over all machines and commands.",
        rich_help_panel=SWEEP,
    ),
]
Search = Annotated[
    list[str] | None,
    typer.Option(
        "--search",
        metavar="KEY=SPACE",
        help="A config key with LOW..HIGH, LOW..HIGH:log or A|B|C; may be repeated.",
        rich_help_panel=SWEEP,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="TIME",
        help="Start no trial after this time, such as 90s, 30m or 2h.",
        rich_help_panel=SWEEP,
    ),
]
Prune = Annotated[
    bool,
    typer.Option(
        "--prune/--no-prune",
        help="End a trial after an epoch at which it is worse than the median of earlier ones.",
        rich_help_panel=SWEEP,
    ),
]
TakeOver = Annotated[
    bool,
    typer.Option(
        "--take-over",
        help="Resume unfinished trials of other machines too; only where those have stopped.",
        rich_help_panel=SWEEP,
    ),
]
Show = Annotated[
    bool, typer.Option("--show", help="Show the trials of the study, and train nothing.", rich_help_panel=SWEEP)
]
To = Annotated[
    Path | None,
    typer.Option(
        "--to",
        metavar="FILE",
        help="Where to write the best trial's config; by default best.yaml beside its run.",
        rich_help_panel=SWEEP,
    ),
]


@app.command(
    epilog="Examples:\n"
    "  ftkit sweep --study sweep.journal --trials 20 --data photos --backbone resnet18\n"
    "  ftkit sweep --study sweep.journal --trials 40 --search optimizer.lr=1e-4..1e-2:log --search epochs=5..20\n"
    "  ftkit sweep --study sweep.journal --show"
)
@with_request
def sweep(
    request: Request,
    study: Study,
    trials: Trials = None,
    search: Search = None,
    budget: Budget = None,
    prune: Prune = True,
    take_over: TakeOver = False,
    show: Show = False,
    to: To = None,
    json: Json = False,
) -> None:
    """Search config values by trials, on one machine or several."""
    from ftkit.cli.output.training.sweep_table import check_target, report
    from ftkit.experiments.sweeps.study_storage import open_study
    from ftkit.experiments.sweeps.sweep_setup import SweepOptions, prepare_sweep

    if to is not None:
        check_target(to)
    if show:
        _check_only_shown(request, trials, search, budget)
        report(open_study(study), to, None, json)
        return
    if launch_env.world() > 1:
        raise RequestError("ftkit sweep trains in one process", "start it several times, with the same --study")
    if trials is None and budget is None:
        raise RequestError("neither --trials nor --budget is given", "give the number of trials: --trials 20")
    seconds = None if budget is None else _seconds(budget)
    options = SweepOptions(study, tuple(search or ()), trials or NO_LIMIT, seconds, prune, take_over)
    ready = prepare_sweep(options, resolver(request), console.note)
    _run(ready)
    report(ready.opened, to or ready.folder / "best.yaml", ready, json)


def _seconds(text: str) -> float:
    """The seconds of a time such as `90s`, `30m`, `2h` or `1h30m`.

    Raises:
        RequestError: It is none, or zero.
    """
    seconds = seconds_of(text)
    if not seconds:
        raise RequestError(f"--budget {text} is not a time", "write it like 90s, 30m, 2h or 1h30m")
    return seconds


def resolver(request: Request) -> Callable[[Sequence[str]], Resolved]:
    """Resolves the request with further `KEY=VALUE`."""
    return lambda sets: replace(request, sets=(*request.sets, *sets)).resolve()


def _check_only_shown(request: Request, trials: int | None, search: list[str] | None, budget: str | None) -> None:
    """Check that nothing is given that has no effect on what a study holds."""
    own = {"--trials": trials, "--search": search, "--budget": budget, "--config": request.file, "--set": request.sets}
    flag = next((name for name, value in own.items() if value), None)
    flag = flag or next((names for names, _ in request.flags.values()), None)
    if flag is not None:
        raise RequestError(f"{flag} has no effect with --show", "drop it")


def _run(ready: Sweep) -> None:
    """Train the missing trials, and print a line before and after each."""
    from ftkit.cli.output.training.progress import make_display
    from ftkit.experiments.sweeps.search_space import describe
    from ftkit.experiments.sweeps.sweep_results import best_of, trial_facts
    from ftkit.experiments.sweeps.sweep_trials import run_sweep

    for key, values in describe(ready.space):
        console.note(f"search {key}: {values}")
    there = trial_facts(ready.opened)
    total = "" if ready.trials == NO_LIMIT else f" of {ready.trials}"
    console.note(f"study {ready.opened.shown}: {plural(len(there), 'trial')}{total}, by {one_line(ready.label)}")

    def announce(claim: Claim, point: Point) -> None:
        values = ", ".join(f"{key} {_short(value)}" for key, value in point.items())
        console.note(f"trial {claim.number}{total}{', resumed' if claim.resumed else ''}: {values}")

    def ended(facts: TrialFacts) -> None:
        best = best_of(ready.opened, trial_facts(ready.opened))
        value = "" if facts.value is None else f", {one_line(ready.label)} {facts.value:.4f}"
        reason = f": {facts.reason}" if facts.reason else ""
        so_far = f"; best: trial {best.number}, {best.value:.4f}" if best is not None else ""
        console.note(f"trial {facts.number} {facts.state}{value}{reason}{so_far}")

    def display_of(run: RunFolder, epochs: int) -> Listener:
        return make_display(run, epochs, quiet=False)

    if run_sweep(ready, display_of, announce, ended):
        console.note("the time of --budget is over")


def _short(value: str) -> str:
    """A value as text; a number with 4 digits."""
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return one_line(value)
