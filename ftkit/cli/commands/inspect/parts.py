"""`ftkit KIND list|show` for every kind of part (`backbones`, `metrics`, ...), without loading torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftkit.cli.command_table import COMMANDS
from ftkit.cli.lists.pager import print_paged
from ftkit.cli.options import Json, complete_names, project_registry, warn_of_faults
from ftkit.cli.output import console
from ftkit.config.choices import AUTO
from ftkit.errors import RequestError, plural

if TYPE_CHECKING:
    from ftkit.plugins import Registry
    from ftkit.strategies.schedule import Schedule

BACKBONE_EXAMPLES = (
    "Examples:\n  ftkit backbones list 'resnet*'\n  ftkit backbones list --family efficientnet --max-params 10M"
)
TABLE_BACKBONE = "resnet18"
TABLE_EPOCHS = 10

Pattern = Annotated[
    str | None,
    typer.Argument(
        metavar="[PATTERN]", show_default=False, help="Only names that match, such as 'resnet*', or contain the text."
    ),
]


def _part_app(kind: str) -> typer.Typer:
    """The app of a kind of part, given by the plural that the registry uses."""
    command = kind.replace("_", "-")
    app = typer.Typer(no_args_is_help=True, help=COMMANDS[command].help)
    words = command.replace("-", " ")

    if kind == "backbones":
        app.command("list", epilog=BACKBONE_EXAMPLES)(list_backbones)
    else:

        @app.command("list", epilog=f"Example: ftkit {command} list", help=f"List {words} by name.")
        def list_(pattern: Pattern = None, json: Json = False) -> None:
            _list_classes(kind, pattern, json)

    if kind == "strategies":
        app.command("show", epilog="Example: ftkit strategies show gradual --epochs 20 --set decay=0.4")(show_strategy)
        return app

    name_argument = _name_argument(kind)

    @app.command("show", epilog=f"Example: ftkit {command} show NAME", help=f"Show one of the {words}.")
    def show(name: str = name_argument, json: Json = False) -> None:
        _show_part(kind, name, json)

    return app


def _name_argument(kind: str) -> Any:
    return typer.Argument(..., metavar="NAME", show_default=False, autocompletion=complete_names(kind))


STRATEGY = _name_argument("strategies")


def list_backbones(
    pattern: Pattern = None,
    family: Annotated[
        str | None, typer.Option("--family", metavar="NAME", help="Only backbones of this family, such as resnet.")
    ] = None,
    max_parameters: Annotated[
        str | None,
        typer.Option("--max-params", metavar="COUNT", help="Only backbones with at most COUNT parameters, as in 10M."),
    ] = None,
    json: Json = False,
) -> None:
    """List backbones by name, with family, image size, parameters and weights."""
    from ftkit.cli.lists.backbone_lists import Selection, describe_all
    from ftkit.cli.output.backbone_descriptions import backbone_row
    from ftkit.cli.output.descriptions import aligned

    registry, faults = project_registry(), list[str]()
    described = describe_all(registry, faults)
    _warn(registry, faults)
    found = Selection(pattern, family, max_parameters).apply(described)
    if json:
        console.print_json(found)
        return
    header = ("name", "family", "input", "parameters", "weights, the default first")
    lines = aligned([header, *map(backbone_row, found)])
    print_paged("\n".join([*lines, "", f"{plural(len(found), 'backbone')}; parameters without the head"]))


def show_strategy(
    name: str = STRATEGY,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Length of the run.", show_default="10")] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            metavar="NAME",
            help="Backbone that provides the layer groups.",
            show_default="resnet18",
            autocompletion=complete_names("backbones"),
        ),
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set an option: --set decay=0.4.")
    ] = None,
    json: Json = False,
) -> None:
    """Show a strategy with its options, and the schedule of layer groups by epochs."""
    from ftkit.cli.output.part_options import class_lines, describe_class

    registry = project_registry(all_plugins=False)
    part = describe_class(registry.strategies, name)
    schedule, reason = None, ""
    try:
        schedule = _schedule(registry, name, sets or [], backbone or TABLE_BACKBONE, epochs or TABLE_EPOCHS)
    except RequestError as error:
        if sets or backbone or epochs:
            raise
        reason = str(error)
    if json:
        table = _table_json(schedule, backbone or TABLE_BACKBONE)
        console.print_json({**part.to_json(), "table": table, "no_table": reason or None})
        return
    _print_lines(class_lines(part, "strategies"))
    _print_lines(_schedule_lines(schedule, backbone or TABLE_BACKBONE) if schedule else ["", f"no table: {reason}"])


backbones = _part_app("backbones")
datasets = _part_app("datasets")
strategies = _part_app("strategies")
tasks = _part_app("tasks")
metrics = _part_app("metrics")
losses = _part_app("losses")
optimizers = _part_app("optimizers")
curves = _part_app("curves")
image_transforms = _part_app("image_transforms")
batch_transforms = _part_app("batch_transforms")
callbacks = _part_app("callbacks")
exporters = _part_app("exporters")


def _list_classes(kind: str, pattern: str | None, json: bool) -> None:
    from ftkit.cli.lists.name_patterns import matches, no_match
    from ftkit.cli.output.part_options import available, describe_class, group_aliases

    registry = project_registry()
    catalog, faults = registry.catalogs[kind], list[str]()
    parts = dict(available(catalog, catalog, faults))
    _warn(registry, faults)
    found = {name: part for name, part in parts.items() if matches(pattern, name)}
    if pattern is not None and not found:
        raise no_match(kind, pattern, parts)
    names = group_aliases(found)
    if json:
        console.print_json([describe_class(catalog, name).to_json() for name in names])
    else:
        print_paged("\n".join(_class_rows(kind, found, names)))


def _class_rows(kind: str, found: Mapping[str, type], names: Mapping[str, list[str]]) -> list[str]:
    """The lines of a list of classes.

    Args:
        names: The aliases by the first name of each class.
    """
    from ftkit.cli.output.descriptions import aligned
    from ftkit.cli.output.part_options import headline

    command = kind.replace("_", "-")
    if not names:
        return [f"no {command.replace('-', ' ')} available: no plugin provides any"]
    lines = aligned([("name", "description"), *((name, headline(found[name])) for name in names)])
    aliases = [f"  {name}: {', '.join(others)}" for name, others in names.items() if others]
    lines += ["", "aliases", *aliases] if aliases else []
    return [*lines, "", f"`ftkit {command} show NAME` shows options"]


def _warn(registry: Registry, faults: list[str]) -> None:
    """Warn of parts and plugins that are left out, and of lists that can't be stored."""
    for fault in faults:
        console.warn(fault)
    warn_of_faults(registry)
    for problem in registry.index_problems():
        console.note(f"note: {problem}")


def _show_part(kind: str, name: str, json: bool) -> None:
    from ftkit.cli.output.part_options import class_lines, describe_class, origin

    if kind == "backbones" and name == AUTO:
        _show_auto(json)
        return
    catalog = project_registry(all_plugins=False).catalogs[kind]
    if kind != "backbones":
        part = describe_class(catalog, name)
        console.print_json(part.to_json()) if json else _print_lines(class_lines(part, kind))
        return
    from ftkit.cli.output.backbone_descriptions import backbone_json, backbone_lines

    backbone = catalog.get(name)
    if json:
        console.print_json(backbone_json(name, backbone, catalog.owner(name).name))
    else:
        _print_lines(backbone_lines(name, backbone, origin(catalog, name)))


def _show_auto(json: bool) -> None:
    """Describe `backbone: auto`, which isn't a backbone."""
    from ftkit.planning.backbone_choice import SUMMARY

    if json:
        console.print_json({"name": AUTO, "description": SUMMARY})
    else:
        console.print_text(f"{AUTO} is not a backbone, but the default of --backbone: {SUMMARY}")
        console.print_text("see the choice for your images: ftkit plan --data FOLDER")


def _schedule(registry: Registry, name: str, sets: list[str], backbone: str, epochs: int) -> Schedule:
    from ftkit.config.plugin_options import make
    from ftkit.config.sources import from_flags, merge
    from ftkit.strategies.schedule import make_schedule

    keys = [item if item.startswith("strategy.") else f"strategy.{item}" for item in sets]
    tree, marks = merge([from_flags({"strategy.name": ("NAME", name)}, keys)])
    options = {key: value for key, value in tree["strategy"].items() if key != "name"}
    sources = {".".join(key): setting.where for key, setting in marks.items() if key[-1] != "name"}
    strategy = make(registry.strategies.get(name), options, "strategy", sources, registry)
    return make_schedule(strategy, registry.backbones.get(backbone, "--backbone"), epochs, name)


def _schedule_lines(schedule: Schedule, backbone: str) -> Iterator[str]:
    from ftkit.cli.output.descriptions import aligned, schedule_tables

    yield f"\nlearning-rate scale, for {backbone} and {plural(len(schedule.rows), 'epoch')}"
    for table in schedule_tables(schedule):
        yield from (f"  {line}" for line in aligned(table))


def _table_json(schedule: Schedule | None, backbone: str) -> dict[str, Any] | None:
    if schedule is None:
        return None
    groups = [group.name for group in schedule.groups]
    return {"backbone": backbone, "groups": groups, "epochs": [dict(row) for row in schedule.rows]}


def _print_lines(lines: Iterable[str]) -> None:
    console.print_text("\n".join(lines))
