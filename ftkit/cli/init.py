"""`ftkit init`: a project that trains at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli import console
from ftkit.cli.options import dataset_at
from ftkit.errors import one_line

if TYPE_CHECKING:
    from ftkit.project import Project
    from ftkit.survey import Survey

app = typer.Typer()
CLASSES_SHOWN = 10


@app.command(epilog="Example: ftkit init my-project --data photos")
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder, or . for this one.")],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="PATH|URL", help="A folder, CSV file or archive of images to set it up for."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The project's name, if not the folder's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the template's files; keep all others.")] = False,
) -> None:
    """Make a project: settings with comments, a plugin of your own, tests."""
    from ftkit.project import make_project

    project = make_project(folder, None if data is None else dataset_at(data), name, force)
    out = console.out()
    if project.data is not None:
        _show_data(project.data)
    out.print(f"made {project.name.package} in {_shell(folder)}: {len(project.files)} files", soft_wrap=True)
    if project.overwritten:
        out.print(f"overwritten: {', '.join(map(str, project.overwritten))}", soft_wrap=True)
    _show_next(project, folder)


def _show_data(data: Survey) -> None:
    out = console.out()
    splits = ", ".join(f"{name} {count:,}" for name, count in data.sizes.items())
    colour = "grey" if data.grey else "in colour"
    out.print(f"found {one_line(data.path)}: {len(data.counts)} classes; {splits} images", soft_wrap=True)
    out.print(f"images of about {data.width} x {data.height} pixels, {colour}", soft_wrap=True)
    width = max(map(len, data.counts))
    for name, count in list(data.counts.items())[:CLASSES_SHOWN]:
        out.print(f"  {one_line(name):<{width}}  {count:,}", soft_wrap=True)
    if len(data.counts) > CLASSES_SHOWN:
        out.print(f"  and {len(data.counts) - CLASSES_SHOWN} classes more", soft_wrap=True)
    for note in data.notes:
        out.print(f"note: {note}", soft_wrap=True)


def _show_next(project: Project, folder: Path) -> None:
    out = console.out()
    if project.folder != Path.cwd():
        out.print(f"  cd {_shell(folder)}", soft_wrap=True)
    out.print("  ftkit plan     what training will do", soft_wrap=True)
    out.print("  ftkit train    do it", soft_wrap=True)


def _shell(path: Path) -> str:
    import shlex

    return shlex.quote(one_line(str(path)))
