"""`ftkit data fix`: applies a table of corrections to a dataset, by default as a copy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.commands.data.data_options import ConfigFile, Sets, resolve_data
from ftkit.cli.output import console
from ftkit.errors import RequestError, one_line, plural

if TYPE_CHECKING:
    from ftkit.data_quality.dataset_request import LoadedData
    from ftkit.data_quality.table_edits import Edits

EXAMPLES = (
    "Examples:\n"
    "  ftkit data fix audit/label-errors.csv --data photos --dry-run\n"
    "  ftkit data fix audit/label-errors.csv --data photos --to corrected.csv\n"
    "  ftkit data fix audit/label-errors.csv --data photos.csv --in-place"
)

Corrections = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="CSV file with the columns image, label and action: keep, relabel, remove or empty."
    ),
]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="PATH|RUN", help="The data; by default that of ./ftkit.yaml.", show_default=False),
]
To = Annotated[
    Path | None,
    typer.Option("--to", metavar="FILE|FOLDER", help="New .csv file, or new folder of class folders with copies."),
]
Link = Annotated[bool, typer.Option("--link", help="With a folder: make symbolic links instead of copies.")]
InPlace = Annotated[bool, typer.Option("--in-place", help="Change the CSV file of the data itself.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the changes, and write nothing.")]
NewClasses = Annotated[bool, typer.Option("--new-classes", help="Accept labels that aren't classes of the data yet.")]


def fix_command(
    file: Corrections,
    data: Data = None,
    config: ConfigFile = None,
    sets: Sets = None,
    to: To = None,
    link: Link = False,
    in_place: InPlace = False,
    dry_run: DryRun = False,
    new_classes: NewClasses = False,
) -> None:
    """Apply corrections of labels to a dataset."""
    _check_target(to, link, in_place, dry_run)
    resolved = resolve_data(data, config, sets or [])
    if resolved.config.label_map:
        raise RequestError(
            f"{resolved.where('label_map')} renames classes, and corrections are of the labels in the data", "drop it"
        )
    from ftkit.data_quality.corrections import plan_changes, read_corrections
    from ftkit.data_quality.dataset_request import load_data

    corrections = read_corrections(file)
    loaded = load_data(resolved)
    if in_place:
        _require_table(loaded)
    changes = plan_changes(loaded, corrections, file, new_classes)
    for line in changes.summary():
        console.print_text(one_line(line))
    if not changes.edits.labels and not changes.edits.removed and in_place:
        console.note("nothing to change")
    elif dry_run:
        console.note("nothing is written (--dry-run)")
    elif in_place:
        _write_in_place(loaded, changes.edits)
    elif to is not None:
        write_edited(loaded, changes.edits, to, link)


def _check_target(to: Path | None, link: bool, in_place: bool, dry_run: bool) -> None:
    if (to is None) == (not in_place) and not dry_run:
        raise RequestError(
            "give one of --to and --in-place",
            "--to writes a corrected copy; --in-place changes the CSV file of the data",
        )
    if link and (to is None or to.suffix.lower() == ".csv"):
        raise RequestError("--link has no effect without --to FOLDER", "drop it")
    if to is not None:
        require_new_target(to)


def require_new_target(to: Path) -> None:
    """Refuse a file or folder that exists, or whose parent is missing."""
    if to.exists():
        raise RequestError(f"--to {to}: it exists already", "name another file or folder")
    if not to.absolute().parent.is_dir():
        raise RequestError(f"--to {to}: there is no folder {to.parent}", "create it, or name another one")


def write_edited(data: LoadedData, edits: Edits, to: Path, link: bool) -> None:
    """Write a dataset after some edits to a new .csv file or a new folder."""
    from ftkit.data_quality.class_folders import write_class_folders
    from ftkit.data_quality.table_edits import edited_samples, edited_table
    from ftkit.data_quality.table_files import write_csv

    if to.suffix.lower() == ".csv":
        header, rows = edited_table(data, edits, to)
        write_csv(to, header, rows)
        console.note(f"{plural(len(rows), 'row')} in {to}")
        return
    with_splits = edits.splits is not None or len(list(data.splits.present())) > 1
    count = write_class_folders(edited_samples(data, edits), to, with_splits, link)
    console.note(f"{plural(count, 'link' if link else 'copy', None if link else 'copies')} in {to}")


def _require_table(data: LoadedData) -> None:
    from ftkit.builtin.datasets.csv_file import CsvFile

    if not isinstance(data.dataset, CsvFile):
        raise RequestError(
            f"--in-place changes a CSV file, and {data.source} is not one",
            "write a corrected copy with --to FOLDER or --to FILE.csv",
        )


def _write_in_place(data: LoadedData, edits: Edits) -> None:
    from ftkit.builtin.datasets.csv_file import CsvFile, delimiter_of
    from ftkit.data_quality.table_edits import edited_table
    from ftkit.data_quality.table_files import write_csv

    assert isinstance(data.dataset, CsvFile), "checked before"
    path = data.dataset.path.expanduser()
    with path.open(encoding="utf-8-sig") as file:
        delimiter = delimiter_of(file.readline())
    header, rows = edited_table(data, edits, path)
    write_csv(path, header, rows, delimiter)
    console.note(f"{plural(len(rows), 'row')} in {path}")
