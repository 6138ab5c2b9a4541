"""`ftkit init`: create or update a project or a plugin package from a template."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.flags import dataset_at
from ftkit.cli.output import console
from ftkit.errors import FtkitError, RequestError, one_line, plural, shell_word, unknown

if TYPE_CHECKING:
    from ftkit.config.dataset_choice import DatasetChoice
    from ftkit.project.create import Project
    from ftkit.project.dataset_stats import DatasetStats

app = typer.Typer()
CLASSES_SHOWN = 10


Folder = Annotated[
    Path | None, typer.Argument(metavar="FOLDER", help="A new folder, or . for this one.", show_default=False)
]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="PATH|URL", help="Folder, CSV file or archive of images to configure."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Option of the data, such as dataset.label_column=breed; may be repeated."
    ),
]
Template = Annotated[
    str | None,
    typer.Option(
        "--template",
        metavar="NAME|PATH|URL",
        help="project, plugin, PLUGIN/TEMPLATE, a folder or a git repository.",
        show_default="project",
    ),
]
PartKind = Annotated[
    str | None,
    typer.Option(
        "--kind",
        metavar="KIND",
        help="Kind of part in a new plugin: strategy, dataset or backbone.",
        show_default="strategy",
    ),
]
Values = Annotated[
    list[str] | None, typer.Option("--value", metavar="KEY=VALUE", help="Value of a question in a custom template.")
]
Update = Annotated[bool, typer.Option("--update", help="Update a project to its template, merging your changes.")]
Check = Annotated[
    bool, typer.Option("--check", help="With --update: change nothing, and exit with 2 if the project is outdated.")
]


@app.command(epilog="Examples: ftkit init my-project --data photos, ftkit init my-plugin --template plugin")
def init(
    folder: Folder = None,
    data: Data = None,
    sets: Sets = None,
    name: Annotated[str | None, typer.Option("--name", help="Project name; by default that of the folder.")] = None,
    template: Template = None,
    kind: PartKind = None,
    given: Values = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files of the template; keep all others.")] = False,
    update: Update = False,
    check: Check = False,
) -> None:
    """Create a project with config, plugin module and tests, or a plugin package."""
    for_new = {"--data": data, "--set": sets, "--name": name, "--template": template, "--kind": kind, "--value": given}
    if update:
        _check_unused([flag for flag, value in for_new.items() if value] + ["--force"] * force)
        _update(folder or Path(), check)
        return
    if check:
        raise RequestError("--check has no effect without --update", "add --update")
    if folder is None:
        raise RequestError("FOLDER is missing", "name a new folder: ftkit init my-project")
    template, values = template or "project", dict(_pair(text) for text in given or [])
    _check_kind(template, kind)
    project = _make(folder, name, template, kind, values, _dataset(data, sets or [], template), force)
    _show(project, folder)


def _check_unused(flags: list[str]) -> None:
    if flags:
        raise RequestError(f"{flags[0]} is for new projects, --update for existing ones", "drop one of them")


def _check_kind(template: str, kind: str | None) -> None:
    from ftkit.project.template_source import KINDS

    if kind is not None and template != "plugin":
        raise RequestError(f"--kind is for --template plugin, not {template}", "drop it, or add --template plugin")
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS, "--kind")


def _dataset(data: str | None, sets: list[str], template: str) -> DatasetChoice | None:
    """The user's data."""
    if data is None:
        if sets:
            raise RequestError(f"--set {sets[0]} has no effect without --data", "give --data too")
        return None
    if template != "project":
        raise RequestError(f"--data is for --template project, not {template}", "drop one of them")
    from ftkit.config.dataset_choice import choose_dataset
    from ftkit.plugins import Registry

    return choose_dataset(dataset_at(data), sets, Registry())


def _make(
    folder: Path,
    name: str | None,
    template: str,
    kind: str | None,
    values: dict[str, str],
    data: DatasetChoice | None,
    force: bool,
) -> Project:
    from ftkit.project.create import InitRequest, make_project
    from ftkit.project.template_source import KINDS

    return make_project(folder, InitRequest(name, template, kind or KINDS[0], values, data, force))


def _show(project: Project, folder: Path) -> None:
    out = console.out()
    if project.data is not None:
        _show_data(project.data)
    files = plural(len(project.files), "file")
    out.print(f"created {project.name.package} in {shell_word(folder)}: {files}", soft_wrap=True)
    if project.overwritten:
        out.print(f"overwritten: {', '.join(map(str, project.overwritten))}", soft_wrap=True)
    _show_next(project, folder)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RequestError(f"--value {text}: not KEY=VALUE", "write it like --value author=me")
    return key, value


CHANGES = {
    "added": "added",
    "replaced": "replaced",
    "merged": "merged with your changes",
    "conflict": "CONFLICT: changed in both; resolve the lines marked <<<<<<<",
    "removed": "removed: no longer in the template",
    "kept": "kept: no longer in the template, but you changed it",
    "deleted": "skipped: you deleted it",
}


def _update(folder: Path, check: bool) -> None:
    from ftkit.project.create import update_project

    done = update_project(folder, check)
    out = console.out()
    for change in done.changes:
        conflict = "CONFLICT: the template's version is beside yours"
        text = conflict if change.path.suffix == ".new" else CHANGES[change.action]
        out.print(f"{one_line(str(change.path))}: {text}", soft_wrap=True)
    if not done.changes:
        out.print(f"{shell_word(folder)} is up to date with template {done.template}", soft_wrap=True)
    elif check:
        raise RequestError(
            f"{shell_word(folder)} is behind template {done.template}: "
            f"{plural(len(done.changes), 'file')} would change",
            "run ftkit init --update",
        )
    elif conflicts := [change for change in done.changes if change.action == "conflict"]:
        verb = "has" if len(conflicts) == 1 else "have"
        raise FtkitError(
            f"{len(conflicts)} of {plural(len(done.changes), 'file')} {verb} conflicts; everything else is up to date",
            "resolve them in an editor; your changes are kept",
        )


def _show_data(data: DatasetStats) -> None:
    out = console.out()
    splits = ", ".join(f"{name} {count:,}" for name, count in data.sizes.items())
    colour = "grey" if data.sample.grey else "in colour"
    out.print(f"found {one_line(data.path)}: {plural(len(data.counts), 'class')}; {splits} images", soft_wrap=True)
    out.print(f"median image size {data.sample.width} x {data.sample.height} pixels, {colour}", soft_wrap=True)
    width = max(map(len, data.counts))
    for name, count in list(data.counts.items())[:CLASSES_SHOWN]:
        out.print(f"  {one_line(name):<{width}}  {count:,}", soft_wrap=True)
    if len(data.counts) > CLASSES_SHOWN:
        out.print(f"  and {plural(len(data.counts) - CLASSES_SHOWN, 'class')} more", soft_wrap=True)
    for note in data.notes:
        out.print(f"note: {note}", soft_wrap=True)


def _show_next(project: Project, folder: Path) -> None:
    lines = {
        "project": ("ftkit plan     show the plan", "ftkit train    train"),
        "plugin": ("pip install -e '.[dev]'    install it", "pytest                     run its tests"),
    }
    out = console.out()
    if project.folder != Path.cwd():
        out.print(f"  cd {shell_word(folder)}", soft_wrap=True)
    for line in lines.get(project.template, ()):
        out.print(f"  {line}", soft_wrap=True)
