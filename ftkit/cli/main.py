"""The `ftkit` program: imports only the command that is run, and reports errors in one line."""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from ftkit.cli import error_messages, signals, switches
from ftkit.cli.command_table import COMMANDS, INTERACTIVE, Entry
from ftkit.cli.output import console, streams
from ftkit.cli.switches import DEBUG, NO_PLUGINS, PLUGIN, STRICT_PLUGINS
from ftkit.distributed import launch_env
from ftkit.errors import FtkitError, RequestError, RunInterrupted


class LazyGroup(TyperGroup):
    """Lists commands and plugins from metadata; imports one only to run or complete it."""

    @cached_property
    def plugin_entries(self) -> dict[str, Entry]:
        """Installed plugins as rows of the table, from the metadata of their packages."""
        return _plugin_entries()

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS, *self.plugin_entries]

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:
        """A row of the table, for help and completion."""
        entry = COMMANDS.get(cmd_name) or self.plugin_entries.get(cmd_name)
        return TyperCommand(cmd_name, help=entry.help, rich_help_panel=entry.panel) if entry else None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, *rest = args
        if name not in COMMANDS:
            return name, _load_plugin_command(name), rest
        if "" in rest or any(text.endswith("=") for text in rest):
            from ftkit.cli.usage import check_not_empty

            check_not_empty(rest)
        return name, load_command(name), rest

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`ftkit` without arguments shows the help and exits with 0."""
        return super().parse_args(ctx, args or ["--help"])


def load_command(name: str) -> Any:
    """Import a built-in command, ready to run."""
    module, _, attribute = COMMANDS[name].app.partition(":")
    command = typer.main.get_command(getattr(import_module(module), attribute))
    command.name = name
    if name not in INTERACTIVE:
        streams.reserve_stdout(command)
    return without_completion_options(command)


def without_completion_options(command: Any) -> Any:
    """Remove the options that typer adds to every app: shell completion is installed for `ftkit` as a whole."""
    command.params = [p for p in command.params if p.name not in {"install_completion", "show_completion"}]
    return command


app = typer.Typer(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Examples:\n"
    "  ftkit train                               train on digits, offline, in seconds\n"
    "  ftkit train --data photos                 train on a folder of images\n"
    "  ftkit predict new-photos                  predict with the latest model\n"
    "  ftkit init my-project --data photos       create a project",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import ftkit

        print(f"ftkit {ftkit.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of errors; works on every command.")] = False,
    plugin: Annotated[
        str | None, typer.Option(PLUGIN, metavar="no:NAME", help="Disable a plugin; works on every command.")
    ] = None,
    no_plugins: Annotated[bool, typer.Option(NO_PLUGINS, help="Disable all plugins; works on every command.")] = False,
    strict_plugins: Annotated[
        bool, typer.Option(STRICT_PLUGINS, help="Fail at the first broken plugin; works on every command.")
    ] = False,
) -> None:
    """Fine-tune image classifiers: from a folder of images to an evaluated, deployable model."""


def main(arguments: list[str] | None = None) -> int:
    """Run the program.

    Returns:
        The exit code: 0 success, 1 failure, 2 invalid request, 128 plus the signal's number if interrupted.
    """
    if arguments is None:
        console.restart_in_utf8_mode()
        from ftkit.models.compute.allocator import keep_freed_memory

        keep_freed_memory()
    # PIL warns of large images that ftkit reads; beyond its own limit ftkit refuses them.
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")
    with streams.prepared(program=arguments is None), signals.as_interrupts() as received:
        return received.exit_code(_main(sys.argv[1:] if arguments is None else arguments))


def _main(arguments: list[str]) -> int:
    debug = False
    try:
        switched = switches.take(arguments)
        debug = switched.debug
        with switched.in_force():
            code = _run(switched.rest)
        streams.finish()
    except BaseException as raised:
        error = error_messages.name_plugin(raised)
        if isinstance(error, SystemExit):
            raise
        if debug:
            import traceback

            traceback.print_exception(error)
        return _exit_with_error(error)
    if code == error_messages.INTERRUPTED:
        console.interrupted()
    return _exit(code)


def _exit_with_error(error: BaseException) -> int:
    from ftkit.cli import multiprocess_errors

    with suppress(FtkitError):  # Results that were printed before the error.
        streams.finish()
    if isinstance(error, RunInterrupted):
        multiprocess_errors.kill_workers()
    if not launch_env.launched():
        return error_messages.report(error)
    return multiprocess_errors.exit_process(multiprocess_errors.report_once(error, error_messages.report))


def _exit(code: int) -> int:
    if not launch_env.launched():
        return code
    from ftkit.cli import multiprocess_errors

    return multiprocess_errors.exit_process(code)


def _run(arguments: list[str]) -> int:
    code = typer.main.get_command(app).main(arguments, prog_name="ftkit", standalone_mode=False, obj=arguments)
    return code if isinstance(code, int) else 0


def _plugin_entries() -> dict[str, Entry]:
    from ftkit.plugins.discovery import installed, is_disabled

    return {
        owner.name: Entry("", f"{owner.summary or 'Commands of this plugin.'} ({owner.package})", "Plugins")
        for owner in (source.owner for source in installed())
        if owner.name not in COMMANDS and not is_disabled(owner.name)
    }


def _load_plugin_command(name: str) -> Any:
    from ftkit.cli.commands.inspect.plugins import commands_of

    return commands_of(name) or _refuse_command(name)


def _refuse_command(name: str) -> NoReturn:
    from ftkit.cli.usage import COMMAND_ALIASES
    from ftkit.errors import unknown

    if name in COMMAND_ALIASES:
        raise RequestError(f"unknown command {name!r}", f"did you mean {COMMAND_ALIASES[name]!r}?")
    raise unknown("command", name, [*COMMANDS, *_plugin_entries()])
