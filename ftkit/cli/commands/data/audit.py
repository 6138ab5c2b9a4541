"""`ftkit data audit`: probable label errors, contradicting copies, outliers and overlapping classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftkit.cli.commands.data.data_options import DATA_KEYS, ConfigFile, DataPath, Sets, resolve_data, run_config
from ftkit.cli.options import Json, complete_names
from ftkit.cli.output import console
from ftkit.config.choices import Device, Precision
from ftkit.errors import RequestError, one_line, plural

if TYPE_CHECKING:
    from ftkit.data_quality.label_audit.audit import AuditedImage, LabelAudit

EXAMPLES = (
    "Examples:\n"
    "  ftkit data audit photos\n"
    "  ftkit data audit photos --to audit      label-errors.csv for ftkit data fix, and gallery.html\n"
    "  ftkit data audit runs/ants              by the out-of-fold outputs of a cross-fitted run"
)

KEYS = (*DATA_KEYS, "backbone", "weights", "preprocessing", "task", "plugins", "cache")

Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="NAME",
        help="Network whose features are used; by default as in ftkit train.",
        autocompletion=complete_names("backbones"),
    ),
]
Weights = Annotated[str | None, typer.Option("--weights", metavar="NAME|FILE|RUN", help="Pretrained weights.")]
ImageSize = Annotated[str | None, typer.Option("--image-size", metavar="PIXELS", help="Input size of the network.")]
Seed = Annotated[str | None, typer.Option("--seed", metavar="N", help="Random seed of the folds.")]
Workers = Annotated[str | None, typer.Option("--workers", metavar="N|auto", help="Data loading processes.")]
BatchSize = Annotated[str | None, typer.Option("--batch-size", metavar="N", help="Images per batch.")]
ToFolder = Annotated[
    Path | None,
    typer.Option("--to", metavar="FOLDER", help="Write label-errors.csv and gallery.html into a new folder."),
]
Most = Annotated[int, typer.Option("--gallery", metavar="N", min=0, help="Most images of each kind in the gallery.")]


def audit_command(
    path: DataPath = None,
    config: ConfigFile = None,
    sets: Sets = None,
    backbone: Backbone = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    device: Annotated[Device | None, typer.Option("--device", help="Device to compute on.")] = None,
    precision: Annotated[Precision | None, typer.Option("--precision", help="Numeric precision.")] = None,
    batch_size: BatchSize = None,
    workers: Workers = None,
    seed: Seed = None,
    to: ToFolder = None,
    gallery: Most = 200,
    json: Json = False,
) -> None:
    """Find probable label errors, contradicting copies, outliers and overlapping classes."""
    network = {
        "backbone": ("--backbone", backbone),
        "weights": ("--weights", weights),
        "preprocessing.size": ("--image-size", image_size),
        "device": ("--device", device),
        "precision": ("--precision", precision),
        "batch_size": ("--batch-size", batch_size),
        "workers": ("--workers", workers),
        "seed": ("--seed", seed),
    }
    flags: dict[str, tuple[str, Any]] = {key: given for key, given in network.items() if given[1] is not None}
    resolved = resolve_data(path, config, sets or [], flags, KEYS)
    if to is not None and to.exists():
        raise RequestError(f"--to {to}: it exists already", "name another folder")
    run = _cross_fitted(path, flags)
    from ftkit.data_quality.label_audit.audit import audit_labels

    audit = audit_labels(resolved, run, console.note)
    if to is not None:
        _write(audit, to, gallery)
    if json:
        console.print_json(audit.to_json())
    else:
        _print(audit, to)


def _cross_fitted(path: str | None, flags: dict[str, tuple[str, Any]]) -> Path | None:
    """The folder of a cross-fitted run, whose own outputs are used."""
    if run_config(path) is None or path is None or not (Path(path) / "out-of-fold.csv").is_file():
        return None
    if "seed" in flags:
        raise RequestError(f"--seed has no effect with the cross-fitted run {path}, which has folds", "drop it")
    return Path(path)


def _write(audit: LabelAudit, to: Path, most: int) -> None:
    from ftkit.data_quality.label_audit.audit import CSV_COLUMNS, csv_rows
    from ftkit.data_quality.table_files import write_csv
    from ftkit.files.durable import replace_folder
    from ftkit.reports.auditing.audit_page import audit_page

    def write(folder: Path) -> None:
        write_csv(folder / "label-errors.csv", CSV_COLUMNS, csv_rows(audit))
        (folder / "gallery.html").write_text(audit_page(audit, most), encoding="utf-8")

    replace_folder(to, write)
    console.note(f"{to / 'label-errors.csv'}: {plural(len(audit.images), 'row')}; {to / 'gallery.html'}")


def _print(audit: LabelAudit, to: Path | None, most: int = 10) -> None:
    for note in audit.notes:
        console.note(f"note: {note}")
    console.print_text(one_line(f"{audit.data.source}: {plural(audit.data.count, 'image')}, {audit.scored}"))
    if audit.agreement is not None:
        console.print_text(f"the likeliest class is the given label for {audit.agreement:.1%} of the images")
    for problem, title in (
        ("label", "probable label error"),
        ("duplicate", "copies with different labels"),
        ("outlier", "outlier"),
    ):
        every = audit.having(problem)
        count, found = len(every), every[:most]
        console.print_text(f"{count:,} {title}" if problem == "duplicate" else plural(count, title))
        for image in found:
            console.print_text(f"  {one_line(_line(image, problem))}")
        if count > len(found):
            console.print_text(f"  and {count - len(found):,} more")
    if audit.overlaps:
        console.print_text("overlapping classes")
    for one, other, share in audit.overlaps[:most]:
        console.print_text(f"  {one_line(f'{one}, {other}')}: {share:.1%} of all images")
    if audit.images and to is None:
        console.note("--to FOLDER writes all of them to label-errors.csv, for ftkit data fix, and a gallery")


def _line(image: AuditedImage, problem: str) -> str:
    given = image.given or "no label"
    if problem == "outlier":
        return f"{image.name} ({given}): distance {image.distance:.2f} times the median"
    change = f"{given} -> {image.suggested or 'no label'}" if image.suggested != image.given else given
    score = "" if image.score is None else f", score {image.score:.3f}"
    return f"{image.name}: {change}{score}{f', {image.detail}' if problem == 'duplicate' else ''}"
