"""`ftkit data split`: new splits of a dataset, stratified or by time, with groups and near duplicates kept together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftkit.cli.commands.data.data_options import ConfigFile, DataPath, Group, Sets, resolve_data
from ftkit.cli.commands.data.fix import Link, require_new_target, write_edited
from ftkit.cli.options import Json
from ftkit.cli.output import console
from ftkit.errors import RequestError, one_line, plural

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ftkit.data_quality.dataset_request import LoadedData
    from ftkit.data_quality.new_splits import NewSplits
    from ftkit.parts.dataset import SplitName

EXAMPLES = (
    "Examples:\n"
    "  ftkit data split photos --to photos/splits.csv\n"
    "  ftkit data split scans.csv --group patient --test 0.2 --val 0.1 --to split.csv\n"
    "  ftkit data split frames --time exif --to by-time --link                folders of links"
)

To = Annotated[
    Path | None,
    typer.Option("--to", metavar="FILE|FOLDER", help="New .csv file, or new folder of split and class folders."),
]
Val = Annotated[float, typer.Option("--val", metavar="FRACTION", help="Fraction of the images for validation.")]
Test = Annotated[float, typer.Option("--test", metavar="FRACTION", help="Fraction of the images for the test split.")]
Time = Annotated[
    str | None,
    typer.Option(
        "--time",
        metavar="COLUMN|exif",
        help="Order of time: the first images for training, the last for testing; a CSV column, or the EXIF date.",
    ),
]
Duplicates = Annotated[
    bool,
    typer.Option(
        "--near-duplicates/--no-near-duplicates",
        help="Keep near duplicates in one split, for which every image is read.",
    ),
]


def split_command(
    path: DataPath = None,
    config: ConfigFile = None,
    sets: Sets = None,
    to: To = None,
    val: Val = 0.15,
    test: Test = 0.15,
    group: Group = None,
    time: Time = None,
    near_duplicates: Duplicates = True,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="Random seed.")] = None,
    link: Link = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the sizes, and write nothing.")] = False,
    json: Json = False,
) -> None:
    """Divide all images of a dataset into new training, validation and test splits."""
    fractions = _fractions(val, test)
    if time is not None and seed is not None:
        raise RequestError("--seed has no effect with --time", "drop one of them")
    if to is None and not dry_run:
        raise RequestError("no target is given", "give --to FILE.csv, --to FOLDER, or --dry-run")
    if to is not None:
        require_new_target(to)
    if link and (to is None or to.suffix.lower() == ".csv"):
        raise RequestError("--link has no effect without --to FOLDER", "drop it")
    resolved = resolve_data(path, config, sets or [])
    from ftkit.data_quality.dataset_request import load_data
    from ftkit.data_quality.image_times import image_times
    from ftkit.data_quality.new_splits import split_data
    from ftkit.data_quality.table_edits import Edits

    data = load_data(resolved)
    together = _groupings(data, group, near_duplicates)
    found = split_data(data, fractions, together, None if time is None else image_times(data, time), seed or 0)
    if json:
        console.print_json(_to_json(data, found))
    else:
        _print(data, found)
    if to is not None and not dry_run:
        names = {split.names[i]: found.names[n] for n, (_, split, i) in zip(found.numbers, data.samples(), strict=True)}
        write_edited(data, Edits(splits=names), to, link)


def _fractions(val: float, test: float) -> dict[SplitName, float]:
    for flag, value in (("--val", val), ("--test", test)):
        if not 0 <= value < 1:
            raise RequestError(f"{flag} is {value}", "give a fraction from 0 to below 1")
    if not 0 < val + test < 1:
        raise RequestError(f"--val {val} and --test {test} leave no {'other' if not val + test else 'training'} images",
                           "give fractions whose sum is above 0 and below 1")  # fmt: skip
    found: dict[SplitName, float] = {"train": 1 - val - test, "val": val, "test": test}
    return {name: fraction for name, fraction in found.items() if fraction > 0}


def _groupings(data: LoadedData, group: str | None, near_duplicates: bool) -> list[NDArray[Any]]:
    """The groupings of images that are kept together."""
    from ftkit.data_quality.sample_groups import sample_groups

    found = []
    if group is not None:
        groups = sample_groups(data, group)
        if groups.missing:
            console.note(f"note: {plural(groups.missing, 'image has', 'images have')} no group: each is one of its own")
        found.append(groups.numbers)
    if near_duplicates:
        from ftkit.data_quality.duplicate_groups import DuplicateGroups, scan_data

        scan = scan_data(data, console.note)
        if scan.errors:
            count = plural(len(scan.errors), "image")
            console.warn(
                f"{count} can't be read, and {'is' if len(scan.errors) == 1 else 'are'} in a split all the same"
            )
        found.append(DuplicateGroups.of(scan).near)
    return found


def _to_json(data: LoadedData, found: NewSplits) -> dict[str, Any]:
    rows = [
        {"image": split.names[i], "split": found.names[n]}
        for n, (_, split, i) in zip(found.numbers.tolist(), data.samples(), strict=True)
    ]
    return {
        "data": data.source,
        "counts": found.counts(),
        "kept_together": found.units,
        "absent_classes": found.absent,
        "images": rows,
    }


def _print(data: LoadedData, found: NewSplits) -> None:
    total = data.count
    before = ", ".join(f"{name} {len(split):,}" for name, split in data.splits.present())
    console.print_text(one_line(f"{data.source}: {plural(total, 'image')} (before: {before})"))
    for name, count in found.counts().items():
        console.print_text(f"  {name:<5} {count:>9,}  {count / total:6.1%}")
    if found.units:
        console.print_text(f"{plural(found.units, 'group')} of images kept together")
    for name, classes in found.absent.items():
        few = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        console.warn(one_line(f"the {name} split has no image of {plural(len(classes), 'class')}: {few}"))
