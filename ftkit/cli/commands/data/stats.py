"""`ftkit data stats`: statistics of a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.commands.data.data_options import ConfigFile, DataPath, Sets, resolve_data
from ftkit.cli.options import Json
from ftkit.cli.output import console
from ftkit.errors import one_line, plural

if TYPE_CHECKING:
    from ftkit.data_quality.dataset_statistics import DataStatistics, Statistics

EXAMPLES = "Examples:\n  ftkit data stats photos\n  ftkit data stats --config ftkit.yaml --json"

MostClasses = Annotated[
    int, typer.Option("--classes", metavar="N", min=0, help="Largest classes to print; --json has all.")
]


def stats_command(
    path: DataPath = None,
    config: ConfigFile = None,
    sets: Sets = None,
    most: MostClasses = 20,
    json: Json = False,
) -> None:
    """Show counts, sizes, formats, brightness and channel statistics of a dataset."""
    resolved = resolve_data(path, config, sets or [])
    from ftkit.data_quality.dataset_request import load_data
    from ftkit.data_quality.dataset_statistics import data_statistics
    from ftkit.data_quality.measured_splits import measure_splits

    found = data_statistics(measure_splits(load_data(resolved), console.note))
    if json:
        console.print_json(found.to_json())
        return
    _print(found, most)
    if found.overall.unreadable:
        console.warn(f"{plural(found.overall.unreadable, 'image')} can't be read: ftkit data check lists them")


def _print(found: DataStatistics, most: int) -> None:
    console.print_text(one_line(f"{found.source}: {plural(found.overall.images, 'image')}"))
    totals = [sum(counts) for counts in zip(*found.counts.values(), strict=True)]
    order = sorted(range(len(totals)), key=lambda label: -totals[label])[:most]
    rows = [(one_line(found.classes[i]), *(f"{own[i]:,}" for own in found.counts.values())) for i in order]
    if len(totals) > most:
        rest = [i for i in range(len(totals)) if i not in set(order)]
        rows.append((f"{len(rest):,} more", *(f"{sum(own[i] for i in rest):,}" for own in found.counts.values())))
    if rows:
        console.show_table("images by class", ("class", *found.counts), rows)
    for name, part in {"all": found.overall, **(found.splits if len(found.splits) > 1 else {})}.items():
        _print_part(name, part)


def _print_part(name: str, part: Statistics) -> None:
    quantiles = next(iter(part.distributions.values()), {})
    rows = [(measure, *(_number(value) for value in own.values())) for measure, own in part.distributions.items()]
    if rows:
        console.show_table(f"{name}: {plural(part.images, 'image')}", ("measure", *quantiles), rows)
    lines = {
        "modes": _counts(part.modes),
        "formats": _counts(part.formats),
        "bytes": f"{part.total_bytes:,}" if part.total_bytes else "",
        "EXIF orientation": f"{part.rotated:,}" if part.rotated else "",
        "colour profile": f"{part.profiled:,} other than sRGB" if part.profiled else "",
        "mean of red, green, blue": _levels(part.mean),
        "std of red, green, blue": _levels(part.std),
    }
    for title, text in lines.items():
        if text:
            console.print_text(f"  {title}: {text}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _levels(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
