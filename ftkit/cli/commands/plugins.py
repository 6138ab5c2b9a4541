"""`ftkit plugins list|doctor`, and the commands that plugins add."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftkit.cli.options import project_registry, warn_of_faults
from ftkit.cli.output import console
from ftkit.errors import FtkitError, RequestError, unknown

if TYPE_CHECKING:
    from ftkit.plugins import Plugin, Registry
    from ftkit.plugins.discovery import Source

app = typer.Typer(no_args_is_help=True, help="List and check plugins.")

KINDS = {
    "ftkit_backbones": ("backbone", "backbones"),
    "ftkit_datasets": ("dataset", "datasets"),
    "ftkit_strategies": ("strategy", "strategies"),
    "ftkit_commands": ("command", "commands"),
    "ftkit_templates": ("template", "templates"),
    "ftkit_models": ("model", "models"),
}

STATES = {True: "ok    ", False: "FAULT ", None: "skip  "}

Json = Annotated[bool, typer.Option("--json", help="As JSON on stdout.")]


@app.command("list", epilog="Example: ftkit plugins list")
def list_plugins(json: Json = False) -> None:
    """List plugins with their state, and what each brings."""
    from ftkit.cli.output.descriptions import aligned

    registry = project_registry(all_plugins=False)
    registry.load_all()
    found = [_facts(registry, source) for source in registry.sources()]
    if json:
        console.print_json(found)
        return
    if not found:
        console.print_text("no plugin is installed, and ftkit.yaml names none; docs/plugins.md says how to write one")
        return
    rows = [("name", "package", "version", "state", "brings")]
    rows += [
        (f["name"], f["package"], f["version"] or "-", f["state"], _brings_text(f["brings"]) or "-") for f in found
    ]
    console.print_text("\n".join(aligned(rows)))
    for fault in (fault for f in found for fault in f["faults"]):
        console.warn(fault)
    warn_of_faults(registry)


@app.command(
    epilog="Examples:\n"
    "  ftkit plugins doctor my-plugin\n"
    "  ftkit plugins doctor my-plugin --num-processes 2   its strategies in two processes too\n"
    "  ftkit plugins doctor leaves --set dataset.root=scans   a dataset whose options must be given"
)
def doctor(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    json: Json = False,
    num_processes: Annotated[
        int, typer.Option("--num-processes", metavar="N", min=1, max=8, help="Let so many train with each strategy.")
    ] = 1,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of what is checked: --set dataset.root=scans."),
    ] = None,
) -> None:
    """Check that a plugin loads, and that what it brings keeps the contracts."""
    from ftkit.testing.doctor import run_checks

    registry = project_registry(all_plugins=False)
    if not registry.has_plugin(name) or name == "ftkit":
        raise unknown("plugin", name, [source.owner.name for source in registry.sources()])
    absence = registry.why_missing(name)
    if registry.plugin(name) is None and absence is not None:
        raise RequestError(absence, "leave that out to have it checked")
    findings = list(run_checks(registry, name, num_processes, sets or ()))
    if json:
        console.print_json([finding.to_json() for finding in findings])
    else:
        for finding in findings:
            console.print_text(f"{STATES[finding.ok]} {finding.check}")
            if finding.ok is not True:
                console.print_text(f"       {finding.fault or finding.skipped}")
    skipped = sum(finding.ok is None for finding in findings)
    if skipped:
        console.warn(f"{skipped} of {len(findings)} checks {'was' if skipped == 1 else 'were'} skipped")
    faults = sum(finding.fault is not None for finding in findings)
    if faults:
        raise FtkitError(f"plugin {name!r} has {faults} of {len(findings)} checks at fault")


def commands_of(name: str) -> Any:
    """The commands of a plugin as one command of `ftkit`; None where there is no such plugin.

    Raises:
        RequestError: The plugin is broken, disabled, or brings no command.
    """
    registry = project_registry(all_plugins=False)
    if not registry.has_plugin(name):
        return None
    from ftkit.plugins import Plugin

    plugin = registry.plugin(name)
    if not isinstance(plugin, Plugin):
        raise RequestError(registry.why_missing(name) or f"there is no plugin {name!r}")
    offer = plugin.offers.get("ftkit_commands")
    names = () if offer is None else registry.call_plugin(name, offer.names)
    if names is None:
        raise RequestError(registry.why_missing(name) or f"plugin {name!r} can't list its commands")
    if offer is None or not names:
        brings = _brings_text(_brings(plugin, registry.count_offers(plugin) or {}))
        raise RequestError(
            f"plugin {name!r} adds no command: it brings {brings}",
            "see ftkit plugins list",
        )
    group = typer.Typer(no_args_is_help=True, help=plugin.owner.summary or f"Commands of plugin {name}.")
    # With one command alone typer would leave out its name.
    group.callback()(lambda: None)
    for command in names:
        if not callable(offer.items[command]):
            raise RequestError(f"command {command!r}: plugin {name!r} offers {offer.items[command]!r}, no function")
        group.command(command)(_as_command(f"command {command!r}", offer.items[command]))
    built = typer.main.get_command(group)
    built.name = name
    built.params = [p for p in built.params if p.name not in {"install_completion", "show_completion"}]
    return built


def _as_command(what: str, function: Callable[..., object]) -> Callable[..., object]:
    """A plugin's function whose exceptions name the plugin; how it exits is its own affair."""
    from ftkit.plugin_errors import plugin_boundary

    @wraps(function)
    def call(*args: Any, **options: Any) -> object:
        with plugin_boundary(what, function):
            try:
                return function(*args, **options)
            except (SystemExit, typer.Exit, typer.Abort, BrokenPipeError) as end:
                ended: BaseException = end
            except Exception as error:
                if not hasattr(error, "format_message"):  # not typer's own, of wrong parameters
                    raise
                ended = error
        raise _ending(ended)

    return call


def _ending(end: BaseException) -> BaseException:
    """How a command ends itself, as typer understands it; `exit("text")` says the text, as Python does."""
    if not isinstance(end, SystemExit):
        return end
    if isinstance(end.code, str):
        console.note(end.code)
        return typer.Exit(1)
    return typer.Exit(end.code or 0)


def _facts(registry: Registry, source: Source) -> dict[str, Any]:
    from ftkit.plugins import Plugin
    from ftkit.plugins.discovery import Fault

    found = registry.plugin(source.owner.name)
    state, brings, why, faults = "disabled", dict[str, Any](), None, list[str]()
    if isinstance(found, Plugin):
        brings, faults = _brings(found, registry.count_offers(found) or {}), registry.check_offers(found)
        state = "faulty" if faults else "ok"
        found = registry.plugin(source.owner.name)
    if isinstance(found, Fault):
        state, brings, why, faults = "broken", {}, found.reason, []
    owner = source.owner
    return {
        "name": owner.name,
        "package": owner.package,
        "version": owner.version,
        "state": state,
        "brings": brings,
        "reason": why,
        "faults": faults,
    }


def _brings(plugin: Plugin, names: dict[str, int]) -> dict[str, Any]:
    """How many of what a plugin offers, and the events that it listens to."""
    counts: dict[str, Any] = {KINDS[hook][1]: count for hook, count in names.items()}
    return counts | ({"listens": list(plugin.event_hooks)} if plugin.event_hooks else {})


def _brings_text(brings: dict[str, Any]) -> str:
    singular = {many: one for one, many in KINDS.values()}
    parts = [f"{n} {kind if n != 1 else singular[kind]}" for kind, n in brings.items() if kind != "listens"]
    listens = ", ".join(name.removeprefix("ftkit_") for name in brings.get("listens", ()))
    return ", ".join([*parts, f"listens to {listens}"] if listens else parts)
