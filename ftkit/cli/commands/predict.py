"""`ftkit predict`: classes of images, a line each; results on stdout, remarks on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Annotated

import typer

from ftkit.cli.image_paths import find_images
from ftkit.cli.output import console
from ftkit.cli.output.prediction_files import Format, check_same_model, prediction_target, skip_predicted
from ftkit.config.choices import Device, Precision
from ftkit.data.walk import SkippedFiles
from ftkit.errors import one_line, plural
from ftkit.metrics.finite_outputs import NOT_FINITE

app = typer.Typer()


@app.command(
    epilog="Examples:\n"
    "  ftkit predict photo.jpg                              ask the latest model\n"
    "  ftkit predict new-photos --model runs/ants --top-k 3\n"
    "  find . -name '*.jpg' | ftkit predict - --format csv\n"
    "  ftkit predict archive --to answers.jsonl --resume    a million of them, in as many sittings as it takes"
)
def predict(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Images, folders of them, quoted globs; - reads paths from stdin."),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="RUN|FOLDER", help="A run, a model, or PLUGIN/ADDRESS; else the latest run."
        ),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", metavar="N", help="How many classes to give for each image.")] = 1,
    form: Annotated[Format, typer.Option("--format", help="How to write them.")] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="Write them to a new .jsonl, .csv or .parquet file, as they come."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="With --to: go on with a file that a stopped run has left.")
    ] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Images at a time.")] = 32,
    device: Annotated[Device, typer.Option("--device", help="Where to compute.")] = "auto",
    precision: Annotated[
        Precision, typer.Option("--precision", help="Arithmetic; auto goes by the hardware.")
    ] = "auto",
    num_processes: Annotated[
        int, typer.Option("--num-processes", metavar="N", min=1, help="Processes, each with a GPU where there are any.")
    ] = 1,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FOLDER", help="Folder that run folders are made in.")
    ] = None,
) -> None:
    """Predict the class of images."""
    target = prediction_target(to, "jsonl" if as_json else form, resume)
    bundle = model_folder(model, output)
    left_out = SkippedFiles()
    images: Iterator[Path] = find_images(paths, sys.stdin, left_out)
    done = skip_predicted(target, images, top_k)
    from ftkit.inference.multi_device import Task, predict_files

    task = Task(bundle, device, precision, top_k, batch_size)
    card, predictions = predict_files(
        task, chain((i for i, _, _ in done.doubtful), images), console.warn, num_processes
    )
    check_same_model(target, done, islice(predictions, len(done.doubtful)))
    console.note(f"model: {bundle} ({card.backbone.name}, {plural(len(card.classes), 'class')})")
    if done.count:
        console.note(f"{target.path}: {plural(done.count, 'answer')} in it, going on after {done.last}")
    unreadable, unusable, total = done.unreadable, done.unusable, done.count
    try:
        for prediction in target.write(predictions, card.classes, top_k):
            total += 1
            unusable += prediction.error == NOT_FINITE
            unreadable += prediction.error not in (None, NOT_FINITE)
    except KeyboardInterrupt:
        if target.path is not None:
            console.note(f"{target.path} has the answers so far; the same command with --resume goes on")
        raise
    if target.path is not None:
        console.note(f"{plural(total, 'answer')} in {target.path}")
    if unreadable:
        console.note(f"{unreadable} of {plural(total, 'file')} can't be read")
    if unusable:
        console.note(f"no prediction for {unusable} of {plural(total, 'image')}: {NOT_FINITE}; try --precision fp32")
    if left := list(left_out.lines()):
        console.note(one_line(f"left out: {'; '.join(left)}"))
    if unreadable or unusable or left_out.meant:
        raise typer.Exit(1)


def model_folder(spec: str | None, output: Path | None) -> Path:
    """The model that a person means; `--output`, else the config's, says where runs are looked for."""
    from ftkit.models.model_source import locate_model

    if output is None and (spec is None or not Path(spec).exists()):
        from ftkit.config.load import resolve

        output = Path(os.path.relpath(resolve(None, {}, [], os.environ).config.output))
    return locate_model(spec, output or Path("runs"))
