"""`ftkit config`: the configuration, the source of each value, its JSON schema, and validation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.options import Json, project_registry, warn_of_faults, with_config
from ftkit.cli.output import console
from ftkit.errors import RequestError

if TYPE_CHECKING:
    from ftkit.config.load import Resolved

app = typer.Typer(no_args_is_help=True)


@app.callback(
    epilog="Examples:\n"
    "  ftkit config show --epochs 5 --sources\n"
    "  ftkit config schema --output ftkit.schema.json\n"
    "  ftkit config validate"
)
def config() -> None:
    """Show, document and validate the configuration."""


@app.command(
    epilog="Examples:\n"
    "  ftkit config show --data photos --strategy freeze > ftkit.yaml\n"
    "  FTKIT_EPOCHS=5 ftkit config show --sources"
)
@with_config
def show(
    resolved: Resolved,
    sources: Annotated[bool, typer.Option("--sources", help="Show beside each value where it was set.")] = False,
    json: Json = False,
) -> None:
    """Print the whole configuration: defaults, file, environment and flags."""
    from ftkit.config.load import to_yaml

    if json:
        console.print_json({"config": resolved.config.model_dump(mode="json"), "sources": dict(resolved.sources)})
        return
    text = to_yaml(resolved.config)
    console.expect_data()
    console.print_text(_with_sources(text, resolved.sources) if sources else text)


@app.command(epilog="Example: ftkit config schema --output ftkit.schema.json")
def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to a file.")] = None,
) -> None:
    """Print the JSON schema of ftkit.yaml, for completion and checks in editors."""
    from ftkit.config.json_schema import json_schema
    from ftkit.files.json_text import dump_json

    registry = project_registry()
    found = json_schema(registry)
    warn_of_faults(registry)
    if output is None:
        console.print_json(found)
        return
    output.write_text(dump_json(found, indent=2, ascii_only=False) + "\n", encoding="utf-8")
    console.note(f"wrote {output}: put `# yaml-language-server: $schema={output}` at the top of ftkit.yaml")


@app.command(epilog="Example: ftkit config validate experiments/long.yaml")
def validate(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Config file; by default ./ftkit.yaml.")] = None,
) -> None:
    """Check every key, name and value of a config file."""
    from ftkit.config import DEFAULT_FILE
    from ftkit.config.load import resolve

    if file is None and not DEFAULT_FILE.exists():
        raise RequestError(f"no {DEFAULT_FILE} in this folder", "name the file: ftkit config validate FILE")
    resolved = resolve(file or DEFAULT_FILE)
    warn_of_faults(resolved.registry)
    console.print_text(f"{file or DEFAULT_FILE}: ok")


def _with_sources(text: str, sources: Mapping[str, str]) -> str:
    """The YAML with a comment such as `# --epochs` on each line whose value was set."""
    path: list[str] = []
    lines = []
    # The indent of a line gives the depth of its key.
    for line in text.splitlines():
        key = line.partition(":")[0]
        path[(len(key) - len(key.lstrip())) // 2 :] = [key.strip()]
        where = sources.get(".".join(path))
        lines.append(f"{line}  # {where}" if where else line)
    return "\n".join(lines)
