"""Adds the config flags to commands, and resolves what was given."""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftkit.cli.flags import FLAGS, RUN, Flag
from ftkit.cli.output import console
from ftkit.config import DEFAULT_FILE
from ftkit.config.choices import AUTO, Device, Precision
from ftkit.errors import FtkitError, RequestError
from ftkit.transforms.view_choices import Tta

if TYPE_CHECKING:
    from ftkit.config.load import Resolved
    from ftkit.plugins import Registry

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
TtaChoice = Annotated[
    Tta,
    typer.Option("--tta", help="Test-time augmentation: average over an image and its mirror image, or 10 crops."),
]
DeviceChoice = Annotated[Device, typer.Option("--device", help="Device to compute on.")]
PrecisionChoice = Annotated[Precision, typer.Option("--precision", help="Numeric precision.")]
RunsFolder = Annotated[Path | None, typer.Option("--output", metavar="FOLDER", help="Parent of the run folders.")]


@dataclass(frozen=True)
class Request:
    """The config flags as given, for a command that chooses the config file that they override.

    Attributes:
        file: `--config`.
        flags: Spelling and value of each flag, by dotted config key.
        sets: The values of `--set`.
    """

    file: Path | None
    flags: Mapping[str, tuple[str, Any]]
    sets: Sequence[str]

    def resolve(self, file: Path | None = None) -> Resolved:
        """Override a config file, by default `--config`, by the environment and the flags."""
        from ftkit.config.load import resolve

        resolved = resolve(file or self.file, self.flags, self.sets, os.environ)
        warn_of_faults(resolved.registry)
        return resolved


def with_request(command: Callable[..., Any]) -> Callable[..., Any]:
    """As `with_config`, but the command takes an unresolved `request`."""
    return _with_flags(command, "request", _request)


def with_config(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the config flags, `--config` and `--set` to a command, which takes them as one argument, `resolved`.

    The command's own parameters are kept. Faults of plugins are printed once, as warnings.
    """
    return _with_flags(command, "resolved", lambda arguments: _request(arguments).resolve())


def _with_flags(command: Callable[..., Any], name: str, made: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
    hints = typing.get_type_hints(command, localns={"Resolved": object, "Request": object}, include_extras=True)
    own = [p for p in inspect.signature(command).parameters.values() if p.name != name]
    keyword = inspect.Parameter.KEYWORD_ONLY
    shown = [p.replace(annotation=hints[p.name], kind=keyword) for p in own]
    signature = inspect.Signature([*shown, *_config_parameters(_spellings(hints.values()))], return_annotation=None)

    @functools.wraps(command)
    def run(**arguments: Any) -> Any:
        kept = {p.name: arguments.pop(p.name) for p in own}
        return command(**{name: made(arguments)}, **kept)

    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return run


def project_registry(all_plugins: bool = True) -> Registry:
    """The registry of built-in plugins, installed ones, and those named in `./ftkit.yaml`.

    Args:
        all_plugins: Load all plugins now, and warn of broken ones.
    """
    from ftkit.plugins import Registry

    plugins: tuple[Path, ...] = ()
    # What validates a config takes a quarter of a second to import.
    if DEFAULT_FILE.exists():
        from ftkit.config.load import project_plugins

        plugins = project_plugins()
    registry = Registry(plugins)
    if all_plugins:
        registry.load_all()
        warn_of_faults(registry)
    return registry


def warn_of_faults(registry: Registry) -> None:
    """Warn of plugins that were skipped, with the reasons."""
    for fault in registry.new_faults():
        console.warn(str(fault))


def _request(arguments: dict[str, Any]) -> Request:
    if arguments["config_data"] is not None and arguments["config_dataset"] is not None:
        raise RequestError(
            "--data and --dataset: give one of them",
            "options of a named dataset are given like --set dataset.root=FOLDER (for csv, --set dataset.path=FILE)",
        )
    flags: dict[str, tuple[str, Any]] = {}
    for flag in FLAGS:
        value = arguments.get(flag.parameter)  # A command's own option may have its spelling.
        if value in (None, []):
            continue
        value = flag.parse(value) if isinstance(value, str) else value
        names, earlier = flags.get(flag.key, ("", []))
        names = f"{names}, {flag.names[0]}" if names else flag.names[0]
        flags[flag.key] = names, ([*earlier, *value] if isinstance(value, list) else value)
    return Request(arguments["config_file"], flags, arguments["config_sets"] or [])


def _spellings(annotations: Iterable[Any]) -> set[str]:
    """The spellings of a command's own options."""
    options = [each for one in annotations for each in getattr(one, "__metadata__", ())]
    # In an annotation, typer has the first spelling in place of the default.
    return {name for each in options for name in (each.default, *(each.param_decls or ())) if isinstance(name, str)}


def _config_parameters(taken: set[str]) -> list[inspect.Parameter]:
    """The parameters of all config flags but those whose spelling is taken by an option of the command."""
    file = Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="Config file; by default ./ftkit.yaml.",
            rich_help_panel=RUN,
        ),
    ]
    sets = Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set any config key, as in optimizer.lr=0.01.", rich_help_panel=RUN
        ),
    ]
    parameters = [_parameter("config_file", file), _parameter("config_sets", sets)]
    return [*(_flag_parameter(flag) for flag in FLAGS if taken.isdisjoint(flag.names)), *parameters]


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _flag_parameter(flag: Flag) -> inspect.Parameter:
    """Values stay text here, since the config's validation has the better error messages."""
    if flag.metavar is None:
        off = f"--no-{flag.names[0].strip('-')}"
        switch = typer.Option(f"{flag.names[0]}/{off}", help=flag.help, rich_help_panel=flag.panel)
        return _parameter(flag.parameter, Annotated[bool | None, switch])
    option = typer.Option(
        *flag.names,
        metavar=flag.metavar,
        help=flag.help,
        rich_help_panel=flag.panel,
        autocompletion=_completer(flag.values) if flag.values else None,
    )
    return _parameter(flag.parameter, Annotated[list[str] | None if flag.repeats else str | None, option])


def _completer(values: tuple[str, ...] | str) -> Callable[[str], list[str]]:
    if isinstance(values, str):
        return complete_names(values)

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def complete_names(kind: str) -> Callable[[str], list[str]]:
    """Shell completion of the names of a kind of part, such as `backbones`."""

    def complete(incomplete: str) -> list[str]:
        with suppress(FtkitError):  # an invalid config; running the command reports it
            auto = [AUTO] if kind == "backbones" else []
            return [n for n in (*auto, *project_registry(False).catalogs[kind]) if n.startswith(incomplete)]
        return []

    return complete
