"""`ftkit extend`: a model with further classes or images, by a head that is solved again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.commands.predict import model_folder
from ftkit.cli.flags import dataset_at
from ftkit.cli.options import DeviceChoice, Json, PrecisionChoice, RunsFolder
from ftkit.cli.output import console
from ftkit.errors import RequestError, one_line, plural, shell_word

if TYPE_CHECKING:
    from ftkit.experiments.extended_model import Extension

app = typer.Typer()

FORGOTTEN = 5
"""Classes that are listed of those that have lost recall."""

Model = Annotated[str, typer.Argument(metavar="RUN", help="Trained run.")]
Data = Annotated[str, typer.Option("--data", metavar="PATH|URL", help="Further images: folder, CSV file or archive.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Option of the images, such as dataset.label_column=breed."),
]
To = Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Folder to create.")]


@app.command(
    epilog="Examples:\n"
    "  ftkit extend runs/ants --data wasps --to ants-and-wasps    classes and images of another folder\n"
    "  ftkit predict photos --model ants-and-wasps"
)
def extend(
    run: Model,
    data: Data,
    to: To,
    sets: Sets = None,
    json: Json = False,
    device: DeviceChoice = "auto",
    precision: PrecisionChoice = "auto",
    output: RunsFolder = None,
) -> None:
    """Add classes or images to a trained model without training it again."""
    from ftkit.config.dataset_choice import choose_dataset
    from ftkit.config.load import resolve
    from ftkit.experiments.extended_model import FurtherImages, extend_model
    from ftkit.models.bundle import load_bundle
    from ftkit.runs.run_lookup import run_of

    bundle = model_folder(run, output)
    folder = run_of(bundle)
    if folder is None or not (folder / "config.yaml").is_file():
        raise RequestError(
            f"{bundle} is a model without a run, so the images that it was trained on are unknown", "give a run"
        )
    resolved = resolve(folder / "config.yaml", {}, [], {})
    loaded = load_bundle(bundle, device, precision, resolved.registry)
    for line in loaded.notes:
        console.warn(line)
    chosen = choose_dataset(dataset_at(data), sets or [], resolved.registry, loaded.card.dataset)
    found = extend_model(loaded, resolved, FurtherImages(chosen.dataset, data), to, console.note)
    if json:
        console.print_json(_to_json(found, to))
    else:
        _print(found, to)


def _print(found: Extension, to: Path) -> None:
    added = ", ".join(one_line(name) for name in found.added) or "none"
    console.print_text(f"new classes: {added}")
    old, new = found.images
    console.print_text(f"head solved on {plural(old, 'image')} of the run and {plural(new, 'further image')}")
    rows = [
        (one.name, f"{one.images:,}", "-" if one.before is None else f"{one.before:.4f}", f"{one.after:.4f}")
        for one in found.measured
    ]
    console.show_table("Accuracy on images that no head is fitted on", ("images", "number", "before", "after"), rows)
    lost = [(name, before, after) for name, before, after in found.forgotten if after < before]
    if lost:
        shown = [(one_line(name), f"{before:.4f}", f"{after:.4f}") for name, before, after in lost[:FORGOTTEN]]
        title = f"The {len(shown)} of {plural(len(lost), 'class')} with a lower recall that lost most"
        console.show_table(title, ("class", "before", "after"), shown)
    console.print_text(one_line(f"model: {to}"))
    console.print_text(f"predict your images:  ftkit predict IMAGE_OR_FOLDER --model {shell_word(to)}")
    start = f"--backbone {shell_word(found.card.backbone.name)} --weights {shell_word(to)} --keep-head"
    console.print_text(f"fine-tune it:         ftkit train --data ALL_IMAGES {start} --strategy full")


def _to_json(found: Extension, to: Path) -> dict[str, object]:
    return {
        "folder": str(to),
        "classes": found.card.classes,
        "added": found.added,
        "images": {"run": found.images[0], "further": found.images[1]},
        "measured": [asdict(one) for one in found.measured],
        "recall": [{"class": name, "before": before, "after": after} for name, before, after in found.forgotten],
        "strength": found.strength,
    }
