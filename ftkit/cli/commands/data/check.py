"""`ftkit data check`: problems of a dataset, with an exit code for continuous integration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ftkit.cli.commands.data.data_options import ConfigFile, DataPath, Group, Sets, resolve_data
from ftkit.cli.options import Json
from ftkit.cli.output import console
from ftkit.errors import one_line, plural

if TYPE_CHECKING:
    from ftkit.data_quality.checks.findings import Finding, Item
    from ftkit.data_quality.checks.run_checks import CheckedData

EXAMPLES = (
    "Examples:\n"
    "  ftkit data check photos\n"
    "  ftkit data check photos --fail-on warning --ignore color-profile   in continuous integration\n"
    "  ftkit data check scans.csv --group patient --to findings.csv       no patient in two splits"
)

FailOn = Annotated[
    Literal["error", "warning", "info", "never"],
    typer.Option("--fail-on", help="Least severity of a finding for exit code 1."),
]
Ignore = Annotated[
    list[str] | None, typer.Option("--ignore", metavar="CHECK", help="Leave out a check; may be repeated.")
]
Examples = Annotated[int, typer.Option("--examples", metavar="N", min=0, help="Examples of each finding to print.")]
To = Annotated[
    Path | None, typer.Option("--to", metavar="FILE", help="Write every finding to a new .csv or .json file.")
]


def check_command(
    path: DataPath = None,
    config: ConfigFile = None,
    sets: Sets = None,
    group: Group = None,
    ignore: Ignore = None,
    fail_on: FailOn = "error",
    examples: Examples = 3,
    to: To = None,
    json: Json = False,
) -> None:
    """Check a dataset for unreadable images, duplicates, leakage, imbalance and other problems."""
    resolved = resolve_data(path, config, sets or [])
    from ftkit.data_quality.checks.run_checks import check_data, require_checks
    from ftkit.data_quality.dataset_request import load_data
    from ftkit.data_quality.measured_splits import measure_splits
    from ftkit.data_quality.sample_groups import sample_groups
    from ftkit.data_quality.table_files import require_new

    require_checks(ignore or [], "--ignore")
    if to is not None:
        require_new(to, "--to", (".csv", ".json"))
    data = load_data(resolved)
    groups = None if group is None else sample_groups(data, group)
    checked = check_data(measure_splits(data, console.note), groups, ignore or [])
    if to is not None:
        _write(checked, to)
    if json:
        console.print_json(checked.to_json())
    else:
        _print(checked, examples)
    if checked.fails(None if fail_on == "never" else fail_on):
        raise typer.Exit(1)


def _write(checked: CheckedData, to: Path) -> None:
    from ftkit.data_quality.checks.findings import CSV_COLUMNS, csv_rows
    from ftkit.data_quality.table_files import write_csv, write_json

    if to.suffix.lower() == ".json":
        write_json(to, checked.to_json())
    else:
        write_csv(to, CSV_COLUMNS, csv_rows(checked.findings))
    console.note(f"{plural(len(checked.findings), 'finding')} in {to}")


def _print(checked: CheckedData, examples: int) -> None:
    images = ", ".join(f"{name} {count:,}" for name, count in checked.images.items())
    total = plural(sum(checked.images.values()), "image")
    console.print_text(one_line(f"{checked.source}: {total} ({images}), {plural(checked.classes, 'class')}"))
    for finding in checked.findings:
        console.print_text(f"{finding.severity:>7}  {finding.check}: {one_line(finding.message)}")
        for line in _examples(finding, examples):
            console.print_text(f"{'':>9}{one_line(line)}")
    counts = {name: sum(finding.severity == name for finding in checked.findings) for name in ("error", "warning")}
    console.print_text(", ".join(plural(count, name) for name, count in counts.items()))


def _examples(finding: Finding, most: int) -> list[str]:
    # The message of a finding on one item without images has all that the item says.
    items = finding.items if len(finding.items) > 1 or any(item.images for item in finding.items) else ()
    lines = [_example(item) for item in items[:most]]
    more = len(items) - len(lines)
    return [*lines, f"and {plural(more, f'more {finding.unit}')}"] if more and most else lines


def _example(item: Item, most: int = 4) -> str:
    shown = [f"{image.name} ({image.label})" if image.label else image.name for image in item.images[:most]]
    more = len(item.images) - most
    words = ", ".join([*shown, *([f"{more:,} more"] if more > 0 else [])])
    parts = (words, item.detail) if len(item.images) == 1 else (item.detail, words)
    return ": ".join(filter(None, parts))
