"""`ftkit config`: output and errors."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import typed


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ftkit(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return typed(*arguments, env=env)


def test_show_prints_a_config_that_starts_the_same_run_again(folder: Path) -> None:
    (folder / "photos").mkdir()
    first = ftkit("config", "show", "--data", "photos", "--epochs", "3", "--strategy", "full")
    assert first.returncode == 0
    assert first.stderr == ""
    shown = yaml.safe_load(first.stdout)
    assert shown["dataset"] == {"name": "folder", "value_range": "auto", "root": str(folder / "photos")}
    assert (shown["epochs"], shown["strategy"]["name"]) == (3, "full")
    (folder / "ftkit.yaml").write_text(first.stdout)
    assert ftkit("config", "show").stdout == first.stdout


def test_show_prints_the_source_of_each_value(folder: Path) -> None:
    (folder / "ftkit.yaml").write_text("# mine\nepochs: 3\noptimizer:\n  lr: 0.5\n")
    done = ftkit("config", "show", "--sources", "--seed", "4", "--set", "patience=2", FTKIT_BATCH_SIZE="8")
    lines = done.stdout.splitlines()
    assert "epochs: 3  # ftkit.yaml:2" in lines
    assert "  lr: 0.5  # ftkit.yaml:4" in lines
    assert "seed: 4  # --seed" in lines
    assert "patience: 2  # --set patience" in lines
    assert "batch_size: 8  # FTKIT_BATCH_SIZE" in lines
    assert "accumulate: 1" in lines
    assert yaml.safe_load(done.stdout)["epochs"] == 3


def test_show_json_prints_only_json() -> None:
    shown = json.loads(ftkit("config", "show", "--json", "--lr", "1e-2").stdout)
    assert (shown["config"]["optimizer"]["name"], shown["config"]["optimizer"]["lr"]) == ("adamw", 0.01)
    assert shown["sources"] == {"optimizer.lr": "--lr"}


@pytest.mark.parametrize("text", [*"|>:,#-;?!&*%@`=<\\/\t ", "||", ", ", "---", "- a", "a #b", "!!str 1"])
def test_text_that_yaml_would_read_as_something_else_is_taken_as_written(text: str) -> None:
    for given in ({"args": ("--set", f"dataset.separator={text}")}, {"env": {"FTKIT_DATASET__SEPARATOR": text}}):
        env: dict[str, str] = given.get("env", {})  # type: ignore[assignment]
        arguments = ("--dataset", "csv", "--set", "dataset.path=a.csv", *given.get("args", ()))
        if env:
            env = {"FTKIT_DATASET__NAME": "csv", "FTKIT_DATASET__PATH": "a.csv", **env}
            arguments = ()
        done = ftkit("config", "show", "--json", *arguments, **env)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["config"]["dataset"]["separator"] == text


@pytest.mark.parametrize(("text", "value"), [("'|'", "|"), ('"\\t"', "\t"), ("~", None), ("null", None), ("", None)])
def test_quotes_and_null_are_those_of_yaml(text: str, value: str | None) -> None:
    arguments = ("--dataset", "csv", "--set", "dataset.path=a.csv", "--set", f"dataset.separator={text}")
    shown = json.loads(ftkit("config", "show", "--json", *arguments).stdout)
    assert shown["config"]["dataset"]["separator"] == value


def test_data_may_be_a_csv_file(folder: Path) -> None:
    (folder / "labels.csv").write_text("path,label\na.png,a\n")
    shown = yaml.safe_load(ftkit("config", "show", "--data", "labels.csv").stdout)
    assert (shown["dataset"]["name"], shown["dataset"]["path"]) == ("csv", str(folder / "labels.csv"))


def test_schema_goes_to_stdout_or_to_a_file(folder: Path) -> None:
    printed = ftkit("config", "schema")
    schema = json.loads(printed.stdout)
    assert "resnet18" in schema["properties"]["backbone"]["enum"]
    written = ftkit("config", "schema", "--output", "s.json")
    assert (written.returncode, written.stdout) == (0, "")
    assert "yaml-language-server: $schema=s.json" in written.stderr
    assert json.loads((folder / "s.json").read_text()) == schema


def test_validate_prints_ok_or_every_error(folder: Path) -> None:
    (folder / "ftkit.yaml").write_text("epochs: 3\noptimizer: {name: sgd, momentum: 0.9}\n")
    good = ftkit("config", "validate")
    assert (good.returncode, good.stdout, good.stderr) == (0, "ftkit.yaml: ok\n", "")
    (folder / "bad.yaml").write_text("epochs: ten\nsed: 3\n")
    bad = ftkit("config", "validate", "bad.yaml")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.splitlines() == [
        "error: bad.yaml:2: sed: unknown key, did you mean 'seed'?",
        "error: bad.yaml:1: epochs: must be a whole number, not 'ten'",
    ]


def test_validate_checks_the_options_of_the_optimizer(folder: Path) -> None:
    (folder / "ftkit.yaml").write_text("optimizer: {name: sgd, momentun: 0.9}\n")
    done = ftkit("config", "validate")
    assert done.returncode == 2
    assert "momentun" in done.stderr
    assert "'momentum'" in done.stderr


def test_a_broken_plugin_gives_a_warning(folder: Path) -> None:
    (folder / "mine.py").write_text("import no_such_module\n")
    (folder / "ftkit.yaml").write_text("plugins: [mine.py]\nepochs: 3\n")
    done = ftkit("config", "show")
    assert done.returncode == 0
    assert done.stderr.count("warning: plugin 'mine' is left out: ModuleNotFoundError") == 1
    assert yaml.safe_load(done.stdout)["epochs"] == 3
    asked = ftkit("config", "show", "--dataset", "mine/boxes")
    assert asked.returncode == 2
    assert "no_such_module" in asked.stderr
