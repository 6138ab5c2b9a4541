"""`ftkit report`: the report of a run as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.commands.inspect.runs import runs_folder
from ftkit.cli.options import DeviceChoice, PrecisionChoice, RunsFolder
from ftkit.cli.output import console
from ftkit.errors import RequestError
from ftkit.parts.dataset import SplitName

if TYPE_CHECKING:
    from ftkit.evaluation.evaluator import ComputeOptions

app = typer.Typer()

Runs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RUN]...", help="Run, by default the latest one; or several, which are compared."),
]
To = Annotated[
    Path | None,
    typer.Option("--to", metavar="FILE", help="A new .html file; by default report.html in the run folder."),
]


@app.command(
    epilog="Examples:\n"
    "  ftkit report                             write report.html into the folder of the latest run\n"
    "  ftkit report runs/ants --split val       with the results on the validation images\n"
    "  ftkit report runs/ants --to ants.html    write another file\n"
    "  ftkit report runs/ants runs/bees --to both.html    compare runs on the same images"
)
def report(
    runs: Runs = None,
    split: Annotated[SplitName | None, typer.Option("--split", help="Split; by default test, else val.")] = None,
    to: To = None,
    device: DeviceChoice = "auto",
    precision: PrecisionChoice = "auto",
    output: RunsFolder = None,
) -> None:
    """Write the report of a run: results, mistakes, training and data as one HTML file."""
    _check_target(to)
    from ftkit.evaluation.evaluator import ComputeOptions

    options = ComputeOptions(device, precision)
    if runs and len(runs) > 1:
        _compare(runs, output, to, split, options)
        return
    folder = _run(runs[0] if runs else None, output)
    from ftkit.reports.run_report import write_report

    console.print_text(str(write_report(folder, to, split, options, console.warn)))


def _compare(
    runs: Sequence[str], output: Path | None, to: Path | None, split: SplitName | None, options: ComputeOptions
) -> None:
    if to is None:
        raise RequestError(f"a comparison of {len(runs)} runs is in no run's folder", "name its file with --to FILE")
    from ftkit.reports.comparing.comparison_report import write_comparison

    write_comparison(runs, runs_folder(output), to, split, options, console.note)
    console.print_text(str(to))


def _run(spec: str | None, output: Path | None) -> Path:
    """The run folder that is named, or the latest one with a model.

    Raises:
        RequestError: There is none, or it is a model without its run.
    """
    from ftkit.runs.model_card import CARD
    from ftkit.runs.run_lookup import find_model, find_run, run_of

    if spec is None:
        bundle = find_model(None, runs_folder(output))
        found = run_of(bundle)
        assert found is not None, "the latest model is in a run folder"
        return found
    place = Path(spec)
    bundle = place.parent if place.name == CARD else place
    found = run_of(bundle) if (bundle / CARD).is_file() else None
    if (bundle / CARD).is_file() and found is None:
        raise RequestError(f"{spec} is a model without a run, and a report is of a run", "ftkit evaluate takes models")
    return found or find_run(spec, Path() if place.is_dir() else runs_folder(output))


def _check_target(path: Path | None) -> None:
    """Refuse a file that exists, or that a browser wouldn't open.

    Raises:
        RequestError: Names it.
    """
    if path is None:
        return
    if path.suffix.lower() not in (".html", ".htm"):
        raise RequestError(f"--to {path}: its name doesn't end in .html", "give it another name")
    if path.exists():
        raise RequestError(f"--to {path}: it exists already", "remove it, or name another file")
    if not path.absolute().parent.is_dir():
        raise RequestError(f"--to {path}: there is no folder {path.parent}", "make it first")
