"""The tables of commands, flags and aliases."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path

import pytest

import ftkit as library
from ftkit.cli.command_table import COMMANDS
from ftkit.cli.flags import FLAGS
from ftkit.cli.main import load_command
from ftkit.cli.usage import COMMAND_ALIASES, FLAG_ALIASES
from tests.conftest import typed


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ftkit(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return typed(*arguments, env=env)


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_shows_every_command(arguments: list[str]) -> None:
    done = ftkit(*arguments, COLUMNS="200")
    assert done.returncode == 0
    assert done.stderr == ""
    for name, entry in COMMANDS.items():
        assert f"{name} " in done.stdout
        assert entry.help in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_has_the_first_line_of_each_commands_help(name: str) -> None:
    module, _, attribute = COMMANDS[name].app.partition(":")
    assert hasattr(importlib.import_module(module), attribute)
    command = load_command(name)
    assert command.help.splitlines()[0] == COMMANDS[name].help
    assert command.name == name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_ends_its_help_with_an_example(name: str) -> None:
    done = ftkit(name, "-h", COLUMNS="200")
    assert done.returncode == 0
    command = load_command(name)
    commands = list(getattr(command, "commands", {}).values()) or [command]
    for one in commands:
        assert one.epilog, f"{name} {one.name} has no example"
        assert f"ftkit {name}" in one.epilog


def test_flags_set_existing_keys_and_aliases_name_existing_flags() -> None:
    for flag in FLAGS:
        assert flag.key.split(".")[0] in type(library.plan().config).model_fields
    flags = {name for flag in FLAGS for name in flag.names} | {"--config", "--set"}
    for name in COMMANDS:
        command = load_command(name)
        for one in [command, *getattr(command, "commands", {}).values()]:
            flags |= {opt for param in one.params for opt in param.opts}
    assert {ours for meant in FLAG_ALIASES.values() for ours in meant} <= flags
    assert set(COMMAND_ALIASES.values()) <= set(COMMANDS)
    assert not set(FLAG_ALIASES) & {flag for flag in flags if flag not in ("--model", "-o")}


def test_commands_that_resolve_a_config_have_its_flags() -> None:
    for name in ("train", "plan"):
        opts = {opt for param in load_command(name).params for opt in param.opts}
        assert {flag.names[0] for flag in FLAGS} | {"--config", "--set", "-c"} <= opts
