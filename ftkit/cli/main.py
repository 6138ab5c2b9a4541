"""The `ftkit` program: finds the command, imports that one alone, and turns errors into one line each."""

from __future__ import annotations

import errno
import re
import sys
import warnings
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from ftkit.cli import switches
from ftkit.cli.output import console, streams
from ftkit.cli.switches import DEBUG, NO_PLUGINS, PLUGIN, STRICT_PLUGINS
from ftkit.distributed import launch_env
from ftkit.errors import FtkitError, RequestError, RunInterrupted

INTERRUPTED = 130


@dataclass(frozen=True)
class Entry:
    """A command as the table of `ftkit --help` shows it; its module is imported when it is run.

    Attributes:
        home: `module:attribute` of the typer app.
        help: The first line of the command's own help.
        panel: Heading that it stands under.
    """

    home: str
    help: str
    panel: str


COMMANDS: dict[str, Entry] = {
    "init": Entry(
        "ftkit.cli.commands.init:app",
        "Make a project: settings with comments, a plugin of your own, tests; or a plugin's package.",
        "Work",
    ),
    "plan": Entry(
        "ftkit.cli.commands.plan:app",
        "Show what training would do: groups, rates, sizes and steps, epoch by epoch.",
        "Work",
    ),
    "train": Entry("ftkit.cli.commands.train:app", "Fine-tune a backbone on images and keep the best model.", "Work"),
    "evaluate": Entry("ftkit.cli.commands.evaluate:app", "Measure a model on labelled images.", "Work"),
    "predict": Entry("ftkit.cli.commands.predict:app", "Say what is in images.", "Work"),
    "advise": Entry(
        "ftkit.cli.commands.advise:app", "Name a strategy, rates and epochs for your data, and say why.", "Work"
    ),
    "compare": Entry(
        "ftkit.cli.commands.compare:app", "Compare runs, or strategies over seeds, on the same images.", "Work"
    ),
    "runs": Entry("ftkit.cli.commands.runs:app", "List the runs, and show what became of one.", "Look"),
    "config": Entry("ftkit.cli.commands.config:app", "Show, describe and check the configuration.", "Look"),
    "backbones": Entry("ftkit.cli.commands.parts:backbones", "List the networks that can be fine-tuned.", "Look"),
    "datasets": Entry("ftkit.cli.commands.parts:datasets", "List the sources of images.", "Look"),
    "strategies": Entry("ftkit.cli.commands.parts:strategies", "List the ways to freeze and thaw layers.", "Look"),
    "cache": Entry(
        "ftkit.cli.commands.cache:app", "List and clear the activations and decoded images that runs keep.", "Look"
    ),
    "plugins": Entry("ftkit.cli.commands.plugins:app", "List the plugins, and check one.", "Look"),
}


TALKS = {"init"}
"""Commands that ask questions and tell what they do, on stdout."""


class LazyGroup(TyperGroup):
    """Shows the table and the plugins; imports a command's module or a plugin only to run or complete it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS, *_plugins()]

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:
        """A line of the table, for help and completion."""
        entry = COMMANDS.get(cmd_name) or _plugins().get(cmd_name)
        return TyperCommand(cmd_name, help=entry.help, rich_help_panel=entry.panel) if entry else None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, *rest = args
        if name not in COMMANDS:
            return name, _plugin_command(name), rest
        if "" in rest or any(text.endswith("=") for text in rest):
            from ftkit.cli.usage import refuse_empty

            refuse_empty(rest)
        return name, load_command(name), rest

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`ftkit` alone shows the help: nothing was asked for, so nothing is wrong."""
        return super().parse_args(ctx, args or ["--help"])


def load_command(name: str) -> Any:
    """Import a command and make it ready to run under its name."""
    module, _, attribute = COMMANDS[name].home.partition(":")
    command = typer.main.get_command(getattr(import_module(module), attribute))
    command.name = name
    if name not in TALKS:
        streams.reserve_stdout(command)
    # Completion belongs to `ftkit` itself; typer offers it on every app.
    command.params = [p for p in command.params if p.name not in {"install_completion", "show_completion"}]
    return command


app = typer.Typer(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Examples:\n"
    "  ftkit train                               train on digits, offline, in seconds\n"
    "  ftkit train --data photos                 train on a folder of images\n"
    "  ftkit predict new-photos                  ask the latest model\n"
    "  ftkit init my-project --data photos       start a project",
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
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error; on every command.")] = False,
    plugin: Annotated[
        str | None, typer.Option(PLUGIN, metavar="no:NAME", help="Leave a plugin out; on every command.")
    ] = None,
    no_plugins: Annotated[bool, typer.Option(NO_PLUGINS, help="Leave all plugins out; on every command.")] = False,
    strict_plugins: Annotated[
        bool, typer.Option(STRICT_PLUGINS, help="Stop at the first broken plugin; on every command.")
    ] = False,
) -> None:
    """Fine-tune image classifiers: from a folder of images to a classifier that can be trusted."""


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit code.

    0 done, 1 the run failed, 2 the request was wrong, 130 interrupted.
    """
    if arguments is None:
        console.restart_in_utf8_mode()
    # PIL's word on images of a size that ftkit reads; beyond its own limit it refuses them.
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")
    with streams.prepared(program=arguments is None):
        return _main(sys.argv[1:] if arguments is None else arguments)


def _main(arguments: list[str]) -> int:
    debug = False
    try:
        switched = switches.take(arguments)
        debug = switched.debug
        with switched.in_force():
            code = _run(switched.rest)
        streams.finish()
    except BaseException as raised:
        error = _attributed(raised)
        if isinstance(error, SystemExit):
            raise
        if debug:
            import traceback

            traceback.print_exception(error)
        return _end(error)
    if code == INTERRUPTED:
        console.interrupted()
    return _leave(code)


def _attributed(error: BaseException) -> BaseException:
    """The error, or the one that names the plugin whose code raised it."""
    from ftkit.plugin_errors import plugin_error_for

    if isinstance(error, FtkitError | KeyboardInterrupt | typer.Abort) or hasattr(error, "format_message"):
        return error
    failure = plugin_error_for(error)
    if failure is None:
        return error
    failure.__cause__ = error
    return failure


def _end(error: BaseException) -> int:
    from ftkit.cli import multiprocess_errors

    if isinstance(error, RunInterrupted):
        multiprocess_errors.end_workers()
    if not launch_env.launched():
        return _explain(error)
    return multiprocess_errors.leave(multiprocess_errors.report_once(error, _explain))


def _leave(code: int) -> int:
    if not launch_env.launched():
        return code
    from ftkit.cli import multiprocess_errors

    return multiprocess_errors.leave(code)


def _run(arguments: list[str]) -> int:
    found = typer.main.get_command(app).main(arguments, prog_name="ftkit", standalone_mode=False, obj=arguments)
    return found if isinstance(found, int) else 0


def _plugins() -> dict[str, Entry]:
    """Installed plugins as lines of the table, from their packages' metadata."""
    from ftkit.plugins.discovery import installed, is_disabled

    return {
        owner.name: Entry("", f"{owner.summary or 'What this plugin adds.'} ({owner.package})", "Plugins")
        for owner in (source.owner for source in installed())
        if owner.name not in COMMANDS and not is_disabled(owner.name)
    }


def _plugin_command(name: str) -> Any:
    """The commands of a plugin, where there is one of that name."""
    from ftkit.cli.commands.plugins import commands_of

    return commands_of(name) or _refuse(name)


def _refuse(name: str) -> NoReturn:
    from ftkit.cli.usage import COMMAND_PEERS
    from ftkit.errors import unknown

    if name in COMMAND_PEERS:
        raise RequestError(f"unknown command {name!r}", f"did you mean {COMMAND_PEERS[name]!r}?")
    raise unknown("command", name, [*COMMANDS, *_plugins()])


_WANTED = re.compile(r"(?<=allocate )[\d.]+ (bytes|[KMGT]i?B)")


def _explain(error: BaseException) -> int:
    """One line for an error, and the exit code that goes with it."""
    if isinstance(error, KeyboardInterrupt):
        console.interrupted()
        return INTERRUPTED
    if isinstance(error, streams.StdoutGone) and error.silent:
        return error.exit_code
    if isinstance(error, RunInterrupted):
        console.interrupted(error.message, error.hint)
        return error.exit_code
    if isinstance(error, FtkitError):
        console.error(error.message, error.hint)
        for other in getattr(error, "others", ()):
            console.error(other)
        return error.exit_code
    if hasattr(error, "format_message"):
        return _explain_usage(error)
    if isinstance(error, typer.Abort):
        console.error("stopped: the question was not answered")
        return 1
    if isinstance(error, OSError) and error.strerror:
        console.error(f"{error.filename}: {error.strerror}" if error.filename else error.strerror, _os_remedy(error))
        return 1
    from ftkit.plugin_errors import is_out_of_memory

    text = " ".join(str(error).split())
    if is_out_of_memory(error):
        size = _WANTED.search(text)
        console.error(
            f"out of memory{f': {size[0]} more were wanted' if size else ''}",
            "lower --batch-size; in training, --accumulate keeps the step as large, and --precision bf16 takes half",
        )
        return 1
    console.error(
        f"internal error: {type(error).__name__}{': ' + text if text else ''}",
        f"run it again with {DEBUG}, or with FTKIT_DEBUG=1, for the traceback",
    )
    return 1


def _explain_usage(error: BaseException) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        return 0
    from ftkit.cli.usage import usage_error

    ours = usage_error(error)
    console.error(ours.message, ours.hint)
    return ours.exit_code


def _os_remedy(error: OSError) -> str | None:
    if error.errno == errno.ENOSPC:
        return "free some space, or write elsewhere with --output"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "check the permissions, or write elsewhere with --output"
    return None
