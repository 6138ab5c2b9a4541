"""`ftkit backbones|datasets|strategies list|show`: what there is to choose from, without loading torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftkit.cli.options import project_registry, warn_of_faults
from ftkit.cli.output import console
from ftkit.errors import FtkitError, RequestError, nearest, plural

if TYPE_CHECKING:
    from ftkit.cli.output.descriptions import Option
    from ftkit.parts.backbone import Backbone
    from ftkit.plugins import Catalog, Registry
    from ftkit.strategies.schedule import Schedule

backbones = typer.Typer(no_args_is_help=True, help="List the networks that can be fine-tuned.")
datasets = typer.Typer(no_args_is_help=True, help="List the sources of images.")
strategies = typer.Typer(no_args_is_help=True, help="List the ways to freeze and thaw layers.")

TABLE_BACKBONE = "resnet18"
TABLE_EPOCHS = 10

Json = Annotated[bool, typer.Option("--json", help="As JSON on stdout.")]
Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]


@backbones.command("list", epilog="Example: ftkit backbones list --filter convnext")
def list_backbones(
    pattern: Annotated[
        str | None, typer.Option("--filter", metavar="TEXT", help="Only those with TEXT in their name or family.")
    ] = None,
    json: Json = False,
) -> None:
    """List backbones with input size, parameters and weights."""
    from ftkit.cli.output.descriptions import aligned, backbone_json

    registry = project_registry()
    found = [
        (name, b) for name, b in _present(registry.backbones, registry.backbones) if _matches(pattern, name, b.family)
    ]
    warn_of_faults(registry)
    if pattern is not None and not found:
        raise _nothing_matches(pattern, registry.backbones)
    if json:
        console.print_json([backbone_json(name, b, registry.backbones.owner(name).name) for name, b in found])
        return
    header = ("name", "family", "input", "parameters", "weights, the default first")
    _say(aligned([header, *(_backbone_row(name, b) for name, b in found)]))
    _say(["", f"{plural(len(found), 'backbone')}; parameters without the head, which is made for the task's classes"])


@backbones.command("show", epilog="Example: ftkit backbones show resnet18")
def show_backbone(name: Name, json: Json = False) -> None:
    """Show a backbone's layer groups, preprocessing and weights."""
    from ftkit.cli.output.descriptions import backbone_json

    catalog = project_registry(all_plugins=False).backbones
    backbone = catalog.get(name)
    if json:
        console.print_json(backbone_json(name, backbone, catalog.owner(name).name))
    else:
        _say(_backbone_lines(name, backbone, _origin(catalog, name)))


@datasets.command("list", epilog="Example: ftkit datasets list")
def list_datasets(json: Json = False) -> None:
    """List datasets by name."""
    registry = project_registry()
    _list_classes(registry.datasets, "datasets", json)
    warn_of_faults(registry)


@datasets.command("show", epilog="Example: ftkit datasets show csv")
def show_dataset(name: Name, json: Json = False) -> None:
    """Show what a dataset is, and its options."""
    catalog = project_registry(all_plugins=False).datasets
    facts = _class_facts(catalog, name)
    if json:
        console.print_json(_plain(facts))
    else:
        _say(_class_lines(facts, "dataset"))


@strategies.command("list", epilog="Example: ftkit strategies list")
def list_strategies(json: Json = False) -> None:
    """List strategies with their aliases."""
    registry = project_registry()
    _list_classes(registry.strategies, "strategies", json)
    warn_of_faults(registry)


@strategies.command("show", epilog="Example: ftkit strategies show gradual --epochs 20 --set decay=0.4")
def show_strategy(
    name: Name,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Length of the run.", show_default="10")] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", metavar="NAME", help="Whose layer groups.", show_default="resnet18")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option: --set decay=0.4.")
    ] = None,
    json: Json = False,
) -> None:
    """Show a strategy's options and the table of layer groups by epochs that it gives."""
    registry = project_registry(all_plugins=False)
    facts = _class_facts(registry.strategies, name)
    schedule, reason = None, ""
    try:
        schedule = _schedule(registry, name, sets or [], backbone or TABLE_BACKBONE, epochs or TABLE_EPOCHS)
    except RequestError as error:
        if sets or backbone or epochs:
            raise
        reason = str(error)
    if json:
        table = _table_json(schedule, backbone or TABLE_BACKBONE)
        console.print_json({**_plain(facts), "table": table, "no_table": reason or None})
        return
    _say(_class_lines(facts, "strategy"))
    _say(_schedule_lines(schedule, backbone or TABLE_BACKBONE) if schedule else ["", f"no table: {reason}"])


def _list_classes(catalog: Catalog[type[Any]], plural: str, json: bool) -> None:
    from ftkit.cli.output.descriptions import aligned, headline, named

    classes = dict(_present(catalog, catalog))
    aliases = named(classes)
    if json:
        console.print_json([_plain(_class_facts(catalog, name)) for name in aliases])
        return
    lines = aligned([("name", "what it is"), *((name, headline(classes[name])) for name in aliases)])
    others = [f"  {name}: {', '.join(also)}" for name, also in aliases.items() if also]
    lines += ["", "also called", *others] if others else []
    _say([*lines, "", f"`ftkit {plural} show NAME` shows the options of one"])


def _present(catalog: Catalog[Any], names: Iterable[str], warn: bool = True) -> Iterator[tuple[str, Any]]:
    """Names with their values; one that its plugin can't give is reported and left out."""
    for name in names:
        try:
            yield name, catalog.get(name)
        except FtkitError as error:
            if warn:
                console.warn(str(error))


def _matches(pattern: str | None, *texts: str) -> bool:
    def folded(text: str) -> str:
        return text.lower().replace("-", "_")

    return pattern is None or any(folded(pattern) in folded(text) for text in texts)


def _nothing_matches(pattern: str, known: Iterable[str]) -> RequestError:
    close = nearest(pattern, known)
    hint = f"did you mean {close!r}?" if close else "see `ftkit backbones list`"
    return RequestError(f"--filter: no backbone has {pattern!r} in its name or family", hint)


def _backbone_row(name: str, backbone: Backbone) -> tuple[str, ...]:
    from ftkit.cli.output.descriptions import short_count, shown_preprocessing

    pre = shown_preprocessing(backbone)
    weights = [f"{w.name} ({w.note})" if w.note and not i else w.name for i, w in enumerate(backbone.weights)]
    parameters = short_count(backbone.summary.parameters(0) if backbone.summary else None)
    return name, backbone.family, f"{pre.size}{' grey' * (pre.channels == 1)}", parameters, ", ".join(weights) or "-"


def _backbone_lines(name: str, backbone: Backbone, origin: str) -> Iterator[str]:
    from ftkit.cli.output.descriptions import aligned, full_count, group_parameters, preprocessing_text

    yield f"{name}: family {backbone.family or '-'}, {origin}; images of {backbone.sizes}"
    yield "\nlayer groups, from the input to the head"
    shown = [full_count(group_parameters(backbone, group)) for group in backbone.group_names]
    width = max(map(len, shown))
    rows = [(f"  {group}", count.rjust(width)) for group, count in zip(backbone.group_names, shown, strict=True)]
    yield from aligned([("  name", "parameters"), *rows])
    yield f"  and the head's own layers ({', '.join(backbone.head)}), made for the task's classes"
    yield "\nweights, the default first"
    for weights in backbone.weights:
        yield f"  {weights.name}{': ' * bool(weights.note)}{weights.note}"
        yield f"    {preprocessing_text(weights.preprocessing)}"
        if weights.file:
            yield f"    {weights.file}" + (f", {weights.size_mb:.3g} MB" if weights.size_mb else "")
    yield f"  none: {preprocessing_text(backbone.preprocessing)}"


def _class_facts(catalog: Catalog[type[Any]], name: str) -> dict[str, Any]:
    """What there is to say about a dataset or a strategy; aliases are named, and lead to the same."""
    from ftkit.cli.output.descriptions import named, options_of, prose

    cls = catalog.get(name)
    known = named(dict(_present(catalog, catalog.of(catalog.owner(name).name), warn=False)))
    # A plugin may offer more than it lists.
    own = next((first for first, also in known.items() if name in (first, *also)), name)
    facts = {"name": own, "aliases": known.get(own, []), "origin": _origin(catalog, name), "about": prose(cls)}
    return facts | {"options": options_of(cls)}


def _class_lines(facts: dict[str, Any], section: str) -> Iterator[str]:
    from ftkit.cli.output.descriptions import value_text

    also = f"; also called {', '.join(facts['aliases'])}" if facts["aliases"] else ""
    yield f"{facts['name']}, {facts['origin']}{also}"
    if facts["about"]:
        yield f"\n{facts['about']}"
    options: Sequence[Option] = facts["options"]
    yield f"\noptions: `--set {section}.KEY=VALUE`, or beside `name` in ftkit.yaml" if options else "\nno options"
    for option in options:
        default = "required" if option.required else f"default {value_text(option.default)}"
        yield f"  {option.name}: {option.type}, {default}"
        if option.doc:
            yield f"      {option.doc}"


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    return facts | {"options": [option.to_json() for option in facts["options"]]}


def _origin(catalog: Catalog[Any], name: str) -> str:
    from ftkit.plugins import BUILT_IN

    owner = catalog.owner(name)
    return (
        "built in" if owner.name == BUILT_IN else f"from plugin {owner.name} ({owner.package} {owner.version})".rstrip()
    )


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

    yield f"\nshare of the learning rate, for {backbone} and {plural(len(schedule.rows), 'epoch')}"
    for table in schedule_tables(schedule):
        yield from (f"  {line}" for line in aligned(table))


def _table_json(schedule: Schedule | None, backbone: str) -> dict[str, Any] | None:
    if schedule is None:
        return None
    groups = [group.name for group in schedule.groups]
    return {"backbone": backbone, "groups": groups, "epochs": [dict(row) for row in schedule.rows]}


def _say(lines: Iterable[str]) -> None:
    """Text as it stands, on stdout: no colours and no folding, so that it can be searched and piped."""
    console.print_text("\n".join(lines))
