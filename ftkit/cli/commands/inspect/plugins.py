"""`ftkit plugins list|doctor`, and the commands that plugins add."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftkit.cli.options import Json, project_registry, warn_of_faults
from ftkit.cli.output import console
from ftkit.errors import FtkitError, RequestError, plural, unknown

if TYPE_CHECKING:
    from ftkit.plugins import Plugin, Registry
    from ftkit.plugins.discovery import Source

app = typer.Typer(no_args_is_help=True, help="List and check plugins.")

STATES = {True: "ok    ", False: "FAIL  ", None: "skip  "}


@app.command("list", epilog="Example: ftkit plugins list")
def list_plugins(json: Json = False) -> None:
    """List plugins with their state, and the parts that each provides."""
    from ftkit.cli.output.descriptions import aligned

    registry = project_registry(all_plugins=False)
    registry.load_all()
    found = [_facts(registry, source) for source in registry.sources()]
    if json:
        console.print_json(found)
        return
    if not found:
        console.print_text("no plugin is installed or named in ftkit.yaml; see docs/plugins.md for how to write one")
        return
    rows = [("name", "package", "version", "state", "provides")]
    rows += [
        (f["name"], f["package"], f["version"] or "-", f["state"], _provides_text(f["provides"]) or "-") for f in found
    ]
    console.print_text("\n".join(aligned(rows)))
    for fault in (fault for f in found for fault in f["faults"]):
        console.warn(fault)
    warn_of_faults(registry)


@app.command(
    epilog="Examples:\n"
    "  ftkit plugins doctor my-plugin\n"
    "  ftkit plugins doctor my-plugin --num-processes 2   also train its strategies in two processes\n"
    "  ftkit plugins doctor leaves --set dataset.root=scans   set a required option of its dataset"
)
def doctor(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    json: Json = False,
    num_processes: Annotated[
        int,
        typer.Option(
            "--num-processes", metavar="N", min=1, max=8, help="Number of processes that train each strategy."
        ),
    ] = 1,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set an option of a checked part, as in dataset.root=scans."),
    ] = None,
) -> None:
    """Check that a plugin loads, and that its parts keep their contracts."""
    from ftkit.testing.doctor import run_checks

    registry = project_registry(all_plugins=False)
    if not registry.has_plugin(name) or name == "ftkit":
        raise unknown("plugin", name, [source.owner.name for source in registry.sources()])
    absence = registry.why_missing(name)
    if registry.plugin(name) is None and absence is not None:
        raise RequestError(absence, "enable the plugin to check it")
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
        raise FtkitError(f"plugin {name!r}: {faults} of {len(findings)} checks failed")


def commands_of(name: str) -> Any:
    """The commands of a plugin as one command of `ftkit`; None if there is no such plugin.

    Raises:
        RequestError: The plugin is broken, disabled, or provides no command.
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
        provided = _provides_text(_provides(plugin, registry.count_offers(plugin) or {}))
        raise RequestError(f"plugin {name!r} provides no command, only {provided}", "see ftkit plugins list")
    return _command_group(plugin, offer.items, names)


def _command_group(plugin: Plugin, functions: Mapping[str, Any], names: Iterable[str]) -> Any:
    name = plugin.owner.name
    group = typer.Typer(no_args_is_help=True, help=plugin.owner.summary or f"Commands of plugin {name}.")
    # Without a callback, typer would drop the name of a single command.
    group.callback()(lambda: None)
    for command in names:
        if not callable(functions[command]):
            raise RequestError(f"command {command!r}: plugin {name!r} provides {functions[command]!r}, not a function")
        group.command(command)(_as_command(f"command {command!r}", functions[command]))
    from ftkit.cli.main import without_completion_options

    built = typer.main.get_command(group)
    built.name = name
    return without_completion_options(built)


def _as_command(what: str, function: Callable[..., object]) -> Callable[..., object]:
    """Wrap a plugin's function so that its exceptions name the plugin; exits pass through."""
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
    """The exit of a command as a typer exception; `exit("text")` prints the text, as in Python."""
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
    state, provides, reason, faults = "disabled", dict[str, Any](), None, list[str]()
    if isinstance(found, Plugin):
        provides, faults = _provides(found, registry.count_offers(found) or {}), registry.check_offers(found)
        state = "faulty" if faults else "ok"
        found = registry.plugin(source.owner.name)
    if isinstance(found, Fault):
        state, provides, reason, faults = "broken", {}, found.reason, []
    owner = source.owner
    return {
        "name": owner.name,
        "package": owner.package,
        "version": owner.version,
        "state": state,
        "provides": provides,
        "reason": reason,
        "faults": faults,
    }


def _provides(plugin: Plugin, offered: dict[str, int]) -> dict[str, Any]:
    """The number of parts of each kind that a plugin provides, and the events that it listens to.

    Args:
        offered: The number of names by hook.
    """
    counts: dict[str, Any] = {hook.removeprefix("ftkit_"): count for hook, count in offered.items()}
    return counts | ({"events": list(plugin.event_hooks)} if plugin.event_hooks else {})


def _provides_text(provides: dict[str, Any]) -> str:
    from ftkit.plugins.kinds import KINDS

    singular = {plural: kind.name for plural, kind in KINDS.items()} | {"commands": "command", "templates": "template"}
    counts = {kind: count for kind, count in provides.items() if kind != "events"}
    parts = [plural(count, singular[kind], kind.replace("_", " ")) for kind, count in counts.items()]
    events = ", ".join(name.removeprefix("ftkit_") for name in provides.get("events", ()))
    return ", ".join([*parts, f"listens to {events}"] if events else parts)
