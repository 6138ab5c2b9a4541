"""`ftkit export`: write a trained model in another format, and check its outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.commands.predict import model_folder
from ftkit.cli.options import Json, RunsFolder, complete_names
from ftkit.cli.output import console
from ftkit.errors import one_line, plural

if TYPE_CHECKING:
    from ftkit.exporting.model_export import Export

app = typer.Typer()

FormatName = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="NAME",
        help="Export format; see `ftkit exporters list`.",
        autocompletion=complete_names("exporters"),
    ),
]
To = Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Folder to create.")]
Model = Annotated[
    str | None,
    typer.Argument(metavar="[RUN|MODEL]", help="Run, model or PLUGIN/ADDRESS; by default the latest run."),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Option of the format, as in opset=18.")
]


@app.command(
    epilog="Examples:\n"
    "  ftkit export --format torch-export --to ants-pt2           the latest run's model, for torch.export.load\n"
    "  ftkit export runs/ants --format onnx --to ants-onnx        needs pip install 'ftkit\\[onnx]'\n"
    "  ftkit export runs/ants --format onnx --to ants-onnx --set opset=18"
)
def export(
    format_name: FormatName,
    to: To,
    model: Model = None,
    sets: Settings = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing export in the folder.")] = False,
    json: Json = False,
    output: RunsFolder = None,
) -> None:
    """Export a model to another format, and check its outputs."""
    from ftkit.config.sources import from_flags

    bundle = model_folder(model, output)
    settings = from_flags({}, [text if text.startswith("exporter.") else f"exporter.{text}" for text in sets or ()])
    settings = [replace(one, where=one.where.replace("--set exporter.", "--set ")) for one in settings]
    from ftkit.exporting.model_export import export_bundle

    done = export_bundle(bundle, format_name, to, settings, force)
    for line in done.notes:
        console.warn(line)
    if json:
        console.print_json(done.to_json())
    else:
        _show(done)


def _show(done: Export) -> None:
    parity = done.parity
    sizes = ", ".join(map(str, parity.batch_sizes))
    data = f"random images and images of {done.images}" if done.images else "random images"
    console.print_text(one_line(f"{done.model} as {done.format} in {done.folder}: {', '.join(done.files)}"))
    console.print_text(
        one_line(
            f"largest difference in logits: {parity.largest_difference:.2g} (tolerance {parity.tolerance:.2g}), "
            f"over {plural(parity.images, 'image')} in batches of {sizes}: {data}"
        )
    )
