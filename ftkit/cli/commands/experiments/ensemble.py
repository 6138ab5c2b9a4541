"""`ftkit ensemble`: make one model of several, which averages their probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.commands.predict import model_folder
from ftkit.cli.options import Json, RunsFolder
from ftkit.cli.output import console
from ftkit.errors import RequestError, one_line, plural, shell_word

if TYPE_CHECKING:
    from ftkit.runs.model_card import ModelCard

app = typer.Typer()

Models = Annotated[list[str], typer.Argument(metavar="RUN|MODEL...", help="Runs or models of the same classes.")]
To = Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Folder to create.")]
Weights = Annotated[
    str | None, typer.Option("--weights", metavar="W,W,...", help="Weights of the models; by default equal.")
]


@app.command(
    epilog="Examples:\n"
    "  ftkit ensemble runs/seed0 runs/seed1 runs/seed2 --to ants-ensemble\n"
    "  ftkit ensemble runs/ants/folds/* --to ants-ensemble      the folds of one run\n"
    "  ftkit predict photos --model ants-ensemble"
)
def ensemble(
    models: Models,
    to: To,
    weights: Weights = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing ensemble in the folder.")] = False,
    json: Json = False,
    output: RunsFolder = None,
) -> None:
    """Make one model of several, which averages their probabilities."""
    folders = [model_folder(spec, output) for spec in models]
    from ftkit.models.ensembles.ensemble_files import make_ensemble

    card = make_ensemble(folders, to, _numbers(weights), force)
    if json:
        members = [
            {"source": one.source, "backbone": one.backbone, "weight": one.weight, "metrics": one.metrics}
            for one in card.members
        ]
        console.print_json({"folder": str(to), "classes": card.classes, "task": card.task, "members": members})
    else:
        _show(card, to)


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise RequestError(f"--weights {text}: not numbers separated by commas", "write it like 2,1,1") from None


def _show(card: ModelCard, folder: Path) -> None:
    names = list(dict.fromkeys(name for one in card.members for name in one.metrics))[:2]
    rows = [
        (one_line(one.source), one.backbone, f"{one.weight:.3f}", *(_value(one.metrics.get(name)) for name in names))
        for one in card.members
    ]
    title = f"{plural(len(rows), 'model')}, {plural(len(card.classes), 'class')}"
    console.show_table(title, ("member", "backbone", "weight", *names), rows)
    console.print_text("metrics: of each model on its own validation images")
    console.print_text(one_line(f"model: {folder}"))
    console.print_text(f"evaluate it:   ftkit evaluate {shell_word(folder)} --data NEW_IMAGES")


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
