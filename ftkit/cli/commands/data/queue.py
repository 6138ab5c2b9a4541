"""`ftkit data queue`: which unlabelled images to label next, as a table or as tasks of Label Studio."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ftkit.cli.commands.predict import Model, model_folder
from ftkit.cli.options import DeviceChoice, Json, PrecisionChoice, RunsFolder
from ftkit.cli.output import console
from ftkit.data.walk import SkippedFiles
from ftkit.errors import RequestError, one_line, plural

if TYPE_CHECKING:
    from ftkit.data_quality.label_queue.labelling_queue import LabellingQueue

EXAMPLES = (
    "Examples:\n"
    "  ftkit data queue new-photos --model runs/ants --count 50 --to queue.csv\n"
    "  ftkit data queue new-photos --format label-studio --to tasks.json"
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of unlabelled images.")]
Count = Annotated[int, typer.Option("--count", metavar="N", min=1, help="Number of images.")]
StrategyChoice = Annotated[
    Literal["auto", "typical", "uncertain"],
    typer.Option(
        "--strategy",
        help="typical images of clusters, for few labels; uncertain and diverse images, for more; auto chooses by the "
        "number of training images.",
    ),
]
To = Annotated[Path | None, typer.Option("--to", metavar="FILE", help="New .csv file, or .json for Label Studio.")]
Format = Annotated[
    Literal["csv", "label-studio"] | None, typer.Option("--format", help="Format of --to; by default by its name.")
]
Prefix = Annotated[
    str | None,
    typer.Option(
        "--url-prefix",
        metavar="URL",
        help="Label Studio: put before the path of each image in FOLDER.",
        show_default=False,
    ),
]


def queue_command(
    folder: Folder,
    model: Model = None,
    count: Count = 100,
    strategy: StrategyChoice = "auto",
    to: To = None,
    form: Format = None,
    url_prefix: Prefix = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Random seed.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", min=1, help="Images per batch.")] = 32,
    device: DeviceChoice = "auto",
    precision: PrecisionChoice = "auto",
    output: RunsFolder = None,
    json: Json = False,
) -> None:
    """List the unlabelled images that it is most useful to label next."""
    written = _format(to, form)
    if url_prefix is not None and written != "label-studio":
        raise RequestError("--url-prefix has no effect without --format label-studio", "drop it")
    files, skipped = _files(folder)
    bundle = model_folder(model, output)
    from ftkit.data_quality.label_queue.labelling_queue import QueueRequest, labelling_queue

    request = QueueRequest(count, None if strategy == "auto" else strategy, seed, batch_size, device, precision)
    found = labelling_queue(bundle, folder, files, request, console.note)
    if to is not None:
        _write(found, to, written, str(bundle), url_prefix)
    if json:
        console.print_json(_to_json(found, str(bundle)))
    else:
        _print(found, 10 if to is not None else count)
    _report(found, skipped, len(files))


def _format(to: Path | None, form: str | None) -> str | None:
    if to is None:
        if form is not None:
            raise RequestError(f"--format {form} has no effect without --to", "name a file, or use --json")
        return None
    from ftkit.data_quality.table_files import require_new

    suffixes = {"csv": (".csv",), "label-studio": (".json",), None: (".csv", ".json")}[form]
    require_new(to, "--to", suffixes)
    return form or ("csv" if to.suffix.lower() == ".csv" else "label-studio")


def _files(folder: Path) -> tuple[list[Path], SkippedFiles]:
    from ftkit.cli.image_paths import find_images

    if not folder.is_dir():
        raise RequestError(f"{folder} is not a folder", "give the folder of unlabelled images")
    skipped = SkippedFiles()
    return list(find_images([str(folder)], None, skipped)), skipped


def _write(found: LabellingQueue, to: Path, form: str | None, model: str, prefix: str | None) -> None:
    from ftkit.data_quality.label_queue.queue_files import CSV_COLUMNS, LOCAL_FILES, csv_rows, label_studio_tasks
    from ftkit.data_quality.table_files import write_csv, write_json

    if form == "csv":
        write_csv(to, CSV_COLUMNS, csv_rows(found.images))
    else:
        write_json(
            to, label_studio_tasks(found.images, model, LOCAL_FILES if prefix is None else prefix, found.exclusive)
        )
    console.note(f"{plural(len(found.images), 'image')} in {to}")


def _print(found: LabellingQueue, most: int) -> None:
    console.print_text(f"{found.strategy}: {found.reason}")
    for rank, image in enumerate(found.images[:most], 1):
        label = "|".join(image.predicted) or "no label"
        console.print_text(
            one_line(f"{rank:>5}  {image.name}: {label} {image.probability:.3f}, margin {image.margin:.3f}")
        )
    if len(found.images) > most:
        console.print_text(f"and {len(found.images) - most:,} more")


def _to_json(found: LabellingQueue, model: str) -> dict[str, Any]:
    images = [{"rank": rank, **vars(image)} for rank, image in enumerate(found.images, 1)]
    facts = {"model": model, "strategy": found.strategy, "reason": found.reason, "candidates": found.candidates}
    return {**facts, "images": images, "unreadable": found.failures}


def _report(found: LabellingQueue, skipped: SkippedFiles, files: int) -> None:
    if found.failures:
        few = "; ".join(f"{file}: {reason}" for file, reason in list(found.failures.items())[:3])
        more = ", ..." if len(found.failures) > 3 else ""
        console.warn(one_line(f"{len(found.failures):,} of {plural(files, 'image')} can't be used: {few}{more}"))
    if lines := list(skipped.lines()):
        console.note(one_line(f"skipped: {'; '.join(lines)}"))
