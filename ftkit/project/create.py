"""Create a project from a template, and update one to the template of today."""

from __future__ import annotations

import keyword
import re
import sys
import tempfile
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path

import ftkit
from ftkit.config.dataset_choice import DatasetChoice
from ftkit.config.json_schema import json_schema
from ftkit.errors import FtkitError, RequestError
from ftkit.files.json_text import dump_json
from ftkit.plugins import Registry
from ftkit.project import rendering
from ftkit.project.dataset_stats import DatasetStats, compute_stats
from ftkit.project.initial_config import earlier_values, plugin_values, template_values
from ftkit.project.template_source import KINDS, Template, merge_values, open_template
from ftkit.project.update import FileChange, TemplateRecord, apply_changes, find_changes, read_record

RESERVED = frozenset({"conftest", "ftkit", "setup", "tests"})
"""Module names that would clash with other files of the project, or with ftkit."""

SCHEMA = Path("ftkit.schema.json")


@dataclass(frozen=True)
class ProjectName:
    """The name of a project.

    Attributes:
        package: Such as `my-project`; also the name of its plugin.
        module: Such as `my_project`.
    """

    package: str
    module: str


@dataclass(frozen=True)
class Project:
    """A project that was created.

    Attributes:
        template: The template's name.
        files: The files that were written, relative to `folder`.
        overwritten: Those of `files` that existed before.
        data: Statistics of the user's data, if some was given.
    """

    name: ProjectName
    folder: Path
    template: str
    files: tuple[Path, ...]
    overwritten: tuple[Path, ...]
    data: DatasetStats | None


@dataclass(frozen=True)
class InitRequest:
    """The arguments of `ftkit init`.

    Attributes:
        name: The project's name; by default the folder's.
        template: `project`, `plugin`, a plugin's `NAME/TEMPLATE`, a folder, or the URL of a repository.
        kind: The kind of part that a new plugin provides.
        values: Values for the placeholders that the template declares.
        data: The user's images, for which the first config is chosen.
        force: Write into a folder that isn't empty.
    """

    name: str | None = None
    template: str = "project"
    kind: str = KINDS[0]
    values: Mapping[str, str] = field(default_factory=dict)
    data: DatasetChoice | None = None
    force: bool = False


def make_project(target: Path, request: InitRequest) -> Project:
    """Create a project that can be trained as it is: on an example dataset, or on the user's data.

    Args:
        target: A new or empty folder; with `force`, any folder.

    Raises:
        RequestError: The target isn't empty, or the name, the template or the data can't be used; nothing is written.
        FtkitError: The target can't be written; nothing is left behind.
    """
    target = target.expanduser().absolute()
    rendering.check_target(target, request.force)
    registry = Registry()
    version = ftkit.__version__
    with open_template(request.template, request.kind, registry) as template:
        text = request.name if request.name is not None else target.resolve().name
        named = plugin_name(text, target) if template.name == "plugin" else project_name(text, target)
        found = None if request.data is None else _stats(request.data, target, registry)
        own = merge_values(template, request.values)
        placeholders = _placeholder_values(template.name, request.kind, named, found, target, version) | own
        rendered = _render(template, placeholders, named)
    record = TemplateRecord(template.name, request.kind, placeholders, version)
    files = rendered | record.files(rendered)
    overwritten = rendering.write_files(files, target)
    return Project(named, target, template.name, tuple(sorted(rendered)), tuple(overwritten), found)


@dataclass(frozen=True)
class Update:
    """The changes that bring a project up to date with its template.

    Attributes:
        template: The template's name.
        before, now: The versions of ftkit that rendered it the last time and now.
    """

    folder: Path
    template: str
    before: str
    now: str
    changes: tuple[FileChange, ...]


def update_project(folder: Path, check: bool = False) -> Update:
    """Bring a project up to date with its template: replace unedited files, and merge edited ones.

    Args:
        check: Return the changes without writing them.

    Raises:
        RequestError: The folder has no record of its template, or the template no longer exists.
        FtkitError: The folder can't be written; nothing has changed.
    """
    folder = folder.expanduser().absolute()
    record, base = read_record(folder)
    version = ftkit.__version__
    named = ProjectName(record.values.get("package", record.values["project"]), record.values["module"])
    with open_template(record.template, record.kind, Registry()) as template:
        fresh = _placeholder_values(template.name, record.kind, named, None, folder, version)
        earlier = earlier_values(record.values) if record.template == "project" else {}
        kept = {**record.values, **earlier}
        placeholders = {**template.values, **fresh, **kept, "requires_ftkit": fresh["requires_ftkit"]}
        new = _render(template, placeholders, named)
    schema = base.get(SCHEMA)
    if schema is not None and (folder / SCHEMA).is_file() and (folder / SCHEMA).read_bytes() != schema:
        # The user has generated the schema again, for a plugin that has changed; there is nothing to merge.
        base.pop(SCHEMA)
        new.pop(SCHEMA, None)
    found = find_changes(base, new, folder)
    if found and not check:
        apply_changes(found, TemplateRecord(record.template, record.kind, placeholders, version), new, folder)
    return Update(folder, record.template, record.ftkit, version, tuple(found))


def _placeholder_values(
    template: str, kind: str, named: ProjectName, found: DatasetStats | None, target: Path, version: str
) -> dict[str, str]:
    """The values of a template's placeholders."""
    if template == "project":
        return template_values(named.package, named.module, found, target, version)
    project = named.package.removeprefix("ftkit-")
    common = {
        "project": project,
        "package": named.package,
        "module": named.module,
        "class_name": "".join(word.capitalize() for word in project.split("-")),
        "requires_ftkit": f"ftkit>={version}" if version else "ftkit",
    }
    return common | (plugin_values(project, kind) if template == "plugin" else {})


def _render(template: Template, placeholders: Mapping[str, str], named: ProjectName) -> dict[Path, bytes]:
    files = template.render(placeholders)
    if template.name == "project":
        files[SCHEMA] = _schema(files[Path(f"{named.module}.py")], named)
    return files


def plugin_name(text: str, target: Path) -> ProjectName:
    """The names `ftkit-NAME` and `ftkit_NAME` of a plugin's package and module; `text` may have the prefix.

    Raises:
        RequestError: As `project_name`.
    """
    return project_name(f"ftkit-{_slug(text).removeprefix('ftkit-')}", target)


def project_name(text: str, target: Path) -> ProjectName:
    """A package name made from `text`: ASCII, lower case, words joined by hyphens.

    Raises:
        RequestError: No letters or digits are left, or another module has the same name.
    """
    package = _slug(text)
    hint = "give another name, such as --name my-project"
    if not package.removeprefix("ftkit-"):
        raise RequestError(f"{text!r} has no letters or digits for a package name", hint)
    if package[0].isdigit():
        package = f"project-{package}"
    name = ProjectName(package, package.replace("-", "_"))
    if not (target / f"{name.module}.py").is_file() and _is_taken(name.module):
        raise RequestError(f"the name {package!r} is taken: another module is imported by `import {name.module}`", hint)
    return name


def _slug(text: str) -> str:
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")


def _is_taken(module: str) -> bool:
    """Whether another module has that name; modules in the current folder don't count."""
    if keyword.iskeyword(module) or module in RESERVED or module in sys.stdlib_module_names:
        return True
    here = Path.cwd()
    spec = PathFinder.find_spec(module, [p for p in sys.path if p and Path(p).resolve() != here])
    return spec is not None and spec.origin is not None


def _stats(data: DatasetChoice, target: Path, registry: Registry) -> DatasetStats:
    found = compute_stats(data, registry)
    if target.resolve().is_relative_to(Path(found.path).resolve()):
        raise RequestError(
            f"{target} is inside the data, {found.path}, so its folders would be read as classes",
            "create the project elsewhere, or move the images into a separate folder",
        )
    return found


def _schema(plugin: bytes, name: ProjectName) -> bytes:
    """The JSON schema of the project's `ftkit.yaml`, including the parts of the project's own plugin."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name.module}.py")
            path.write_bytes(plugin)
            registry = Registry((path,))
    except OSError as error:
        raise FtkitError(f"can't write to a temporary folder: {error.strerror or error}", "set TMPDIR") from None
    return (dump_json(json_schema(registry), indent=2, ascii_only=False) + "\n").encode()
