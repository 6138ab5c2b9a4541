"""`ftkit init`: a project that trains at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.flags import dataset_at
from ftkit.cli.output import console
from ftkit.errors import FtkitError, RequestError, one_line, plural, shell_word, unknown

if TYPE_CHECKING:
    from ftkit.project.create import Project
    from ftkit.project.dataset_stats import DatasetStats

app = typer.Typer()
CLASSES_SHOWN = 10


@app.command(epilog="Examples: ftkit init my-project --data photos, ftkit init my-plugin --template plugin")
def init(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="A new folder, or . for this one.", show_default=False)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="PATH|URL", help="A folder, CSV file or archive of images to set it up for."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The project's name, if not the folder's.")] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            metavar="NAME|PATH|URL",
            help="project, plugin, a plugin's NAME/TEMPLATE, a folder or a git repository.",
            show_default="project",
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="What a new plugin brings: strategy, dataset or backbone.",
            show_default="strategy",
        ),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--value", metavar="KEY=VALUE", help="A value that a template from elsewhere asks for."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the template's files; keep all others.")] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Bring a project to its template's present state; merge what is edited.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="With --update: change nothing, and exit with 2 where it is behind.")
    ] = False,
) -> None:
    """Create a project with config, plugin module and tests, or a plugin package."""
    news = {"--data": data, "--name": name, "--template": template, "--kind": kind, "--value": given}
    if update:
        _refuse([flag for flag, value in news.items() if value] + ["--force"] * force)
        _update(folder or Path(), check)
        return
    if check:
        raise RequestError("--check looks whether a project is behind its template", "add --update")
    if folder is None:
        raise RequestError("FOLDER is missing", "name a new folder: ftkit init my-project")
    _make(folder, data, name, template or "project", kind, given or [], force)


def _refuse(flags: list[str]) -> None:
    if flags:
        raise RequestError(f"{flags[0]} is for a new project, and --update for one that is there", "drop one of them")


def _make(
    folder: Path,
    data: str | None,
    name: str | None,
    template: str,
    kind: str | None,
    given: list[str],
    force: bool,
) -> None:
    from ftkit.project.create import InitRequest, make_project
    from ftkit.project.template_source import KINDS

    if kind is not None and template != "plugin":
        raise RequestError(f"--kind is for --template plugin, not {template}", "drop it, or add --template plugin")
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS, "--kind")
    if data is not None and template != "project":
        raise RequestError(f"--data is for --template project, not {template}", "drop one of them")
    looked = None if data is None else dataset_at(data)
    wish = InitRequest(name, template, kind or KINDS[0], dict(_pair(text) for text in given), looked, force)
    project = make_project(folder, wish)
    out = console.out()
    if project.data is not None:
        _show_data(project.data)
    made = plural(len(project.files), "file")
    out.print(f"made {project.name.package} in {shell_word(folder)}: {made}", soft_wrap=True)
    if project.overwritten:
        out.print(f"overwritten: {', '.join(map(str, project.overwritten))}", soft_wrap=True)
    _show_next(project, folder)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RequestError(f"--value {text}: no KEY=VALUE", "give it as in --value author=me")
    return key, value


SAYS = {
    "added": "new",
    "replaced": "replaced",
    "merged": "merged with your changes",
    "conflict": "CONFLICT: both have changed; look for <<<<<<< in it",
    "removed": "removed, as from the template",
    "kept": "kept: no longer in the template, but you have changed it",
    "deleted": "left out: you have deleted it",
}


def _update(folder: Path, check: bool) -> None:
    from ftkit.project.create import update_project

    done = update_project(folder, check)
    out = console.out()
    for change in done.changes:
        said = "CONFLICT: the template's is beside yours" if change.path.suffix == ".new" else SAYS[change.action]
        out.print(f"{one_line(str(change.path))}: {said}", soft_wrap=True)
    if not done.changes:
        out.print(f"{shell_word(folder)} is what template {done.template} makes today", soft_wrap=True)
    elif check:
        raise RequestError(
            f"{shell_word(folder)} is behind template {done.template}: "
            f"{plural(len(done.changes), 'file')} would change",
            "ftkit init --update changes them",
        )
    elif conflicts := [change for change in done.changes if change.action == "conflict"]:
        verb = "has" if len(conflicts) == 1 else "have"
        raise FtkitError(
            f"{len(conflicts)} of {plural(len(done.changes), 'file')} {verb} conflicts; everything else is up to date",
            "settle them in an editor; nothing of yours was dropped",
        )


def _show_data(data: DatasetStats) -> None:
    out = console.out()
    splits = ", ".join(f"{name} {count:,}" for name, count in data.sizes.items())
    colour = "grey" if data.grey else "in colour"
    out.print(f"found {one_line(data.path)}: {plural(len(data.counts), 'class')}; {splits} images", soft_wrap=True)
    out.print(f"images of about {data.width} x {data.height} pixels, {colour}", soft_wrap=True)
    width = max(map(len, data.counts))
    for name, count in list(data.counts.items())[:CLASSES_SHOWN]:
        out.print(f"  {one_line(name):<{width}}  {count:,}", soft_wrap=True)
    if len(data.counts) > CLASSES_SHOWN:
        out.print(f"  and {plural(len(data.counts) - CLASSES_SHOWN, 'class')} more", soft_wrap=True)
    for note in data.notes:
        out.print(f"note: {note}", soft_wrap=True)


def _show_next(project: Project, folder: Path) -> None:
    lines = {
        "project": ("ftkit plan     what training will do", "ftkit train    do it"),
        "plugin": ("pip install -e '.[dev]'    make it known to ftkit", "pytest                     run its tests"),
    }
    out = console.out()
    if project.folder != Path.cwd():
        out.print(f"  cd {shell_word(folder)}", soft_wrap=True)
    for line in lines.get(project.template, ()):
        out.print(f"  {line}", soft_wrap=True)
