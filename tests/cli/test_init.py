"""`ftkit init`: working projects, settings chosen by the data, and no partial projects."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from PIL import Image

from tests.conftest import MakeFolder, RunFtkit

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = [
    ".ftkit/template.json",
    ".ftkit/template.zip",
    ".gitignore",
    "README.md",
    "ftkit.schema.json",
    "ftkit.yaml",
    "my_project.py",
    "pyproject.toml",
    "samples/circle.png",
    "samples/square.png",
    "samples/triangle.png",
    "tests/test_my_project.py",
    "train.sbatch",
]


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def config_of(project: Path) -> Any:
    return yaml.safe_load((project / "ftkit.yaml").read_text(encoding="utf-8"))


def save_images(folder: Path, mode: str, size: tuple[int, int], count: int) -> Path:
    """`count` images in each of two class folders: black, or of another colour in a mode that has colours."""
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new(mode, size, "crimson" if mode == "RGB" else 0).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, run_ftkit: RunFtkit) -> Path:
    """A project made without data."""
    folder = tmp_path_factory.mktemp("projects")
    done = run_ftkit("init", "my-project", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert names_in(folder) == ["my-project"]
    return folder / "my-project"


def test_a_project_has_its_files_and_next_commands(tmp_path: Path, run_ftkit: RunFtkit) -> None:
    done = run_ftkit("init", "my-project", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert files_in(tmp_path / "my-project") == FILES
    assert [line.split("  ")[1] for line in done.stdout.splitlines()[-3:]] == [
        "cd my-project",
        "ftkit plan",
        "ftkit train",
    ]


def test_the_package_has_the_plugin_as_its_entry_point(project: Path) -> None:
    package = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    assert package["project"]["name"] == "my-project"
    assert package["project"]["entry-points"]["ftkit"] == {"my-project": "my_project"}


def test_editors_can_check_the_config_by_its_schema(project: Path) -> None:
    text = (project / "ftkit.yaml").read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=./ftkit.schema.json\n")
    schema = json.loads((project / "ftkit.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(config_of(project), schema)
    automatic = dict.fromkeys(("task", "loss", "monitor", "strategy"), "auto")
    jsonschema.validate(config_of(project) | automatic, schema)
    for wrong in ({"epoch": 3}, {"strategy": {"name": "my-project/top-down", "all_at": "x"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(config_of(project) | wrong, schema)


def test_the_config_is_valid_and_uses_the_plugins_parts(project: Path, run_ftkit: RunFtkit) -> None:
    assert run_ftkit("config", "validate", cwd=project).returncode == 0
    plan = run_ftkit("plan", "--json", cwd=project)
    assert plan.returncode == 0, plan.stderr
    found = json.loads(plan.stdout)
    assert found["classes"] == ["circle", "square", "triangle"]
    assert found["data"] == {"train": 900, "val": 300, "test": 300}
    everything = ["conv2", "fc1", "fc2", "head", "stem"]
    table = [sorted(epoch["lr_scale"]) for epoch in found["epochs"]]
    assert table == [["head"], ["fc2", "head"], ["fc2", "head"], *[everything] * 12]


@pytest.mark.long
def test_the_three_commands_of_the_readme_work(tmp_path: Path, run_ftkit: RunFtkit) -> None:
    run_ftkit("init", "my-project", cwd=tmp_path)
    readme = (tmp_path / "my-project" / "README.md").read_text(encoding="utf-8")
    commands = readme.split("```sh\n")[1].split("```")[0].splitlines()
    assert [command.split()[:2] for command in commands] == [
        ["ftkit", "train"],
        ["ftkit", "evaluate"],
        ["ftkit", "predict"],
    ]
    done = [run_ftkit(*command.split()[1:], cwd=tmp_path / "my-project") for command in commands]
    assert [one.returncode for one in done] == [0, 0, 0], "".join(one.stderr for one in done)
    for name in ("circle", "square", "triangle"):
        assert next(line for line in done[2].stdout.splitlines() if f"{name}.png" in line).count(name) == 2


@pytest.mark.long
def test_a_new_project_passes_its_own_tests(project: Path) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("FTKIT_", "PYTEST_"))}
    env = clean | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)
    assert "5 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("mode", "size", "input_size"),
    [
        ("RGB", (200, 160), None),
        ("RGB", (96, 96), 192),
        ("RGB", (32, 32), 128),
        ("L", (28, 28), None),
    ],
)
def test_the_settings_suit_the_images(
    mode: str, size: tuple[int, int], input_size: int | None, tmp_path: Path, run_ftkit: RunFtkit
) -> None:
    save_images(tmp_path / "images", mode, size, 3)
    done = run_ftkit("init", "it", "--data", "images", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{size[0]} x {size[1]} pixels, {'grey' if mode == 'L' else 'in colour'}" in done.stdout
    config = config_of(tmp_path / "it")
    assert (config["preprocessing"]["size"], config["weights"]) == (input_size, "default")
    auto = json.loads(run_ftkit("plan", "--data", "images", "--json", cwd=tmp_path).stdout)
    assert config["backbone"] == auto["backbone"]
    assert (config["backbone"] == "lenet") == (mode == "L")
    assert config["dataset"] == {"name": "folder", "root": str(tmp_path / "images")}
    own = json.loads(run_ftkit("plan", "--json", cwd=tmp_path / "it").stdout)
    differing = {key for key in own.keys() | auto.keys() if own.get(key) != auto.get(key)}
    assert differing <= {"notes"}, "a project trains as `ftkit train --data` does"


def test_an_update_keeps_the_training_of_a_project_of_an_earlier_template(
    tmp_path: Path, run_ftkit: RunFtkit, image_folder: MakeFolder
) -> None:
    """It had a value for each setting of the recipe, where there is one for all of it now."""
    image_folder(tmp_path / "images", {"train": {"a": 6, "b": 6}}, size=(28, 28))
    assert run_ftkit("init", "it", "--data", "images", cwd=tmp_path).returncode == 0
    record = tmp_path / "it" / ".ftkit" / "template.json"
    facts = json.loads(record.read_text(encoding="utf-8"))
    values = {key: value for key, value in facts["values"].items() if key not in ("recipe", "validation")}
    values |= {"strategy": "gradual", "augment": "standard", "lr": "0.001", "batch_size": "16", "epochs": "15"}
    facts["values"] = values | {"strategy_why": "Why.", "augment_why": "Why.", "lr_why": "Why."}
    record.write_text(json.dumps(facts), encoding="utf-8")
    done = run_ftkit("init", "--update", cwd=tmp_path / "it")
    assert done.returncode == 0, done.stderr
    config = config_of(tmp_path / "it")
    assert (config["strategy"], config["augment"], config["optimizer"]["lr"]) == (
        {"name": "gradual"},
        "standard",
        0.001,
    )
    assert (config["batch_size"], config["epochs"], config["val_fraction"]) == (16, 15, 0.2)
    assert run_ftkit("config", "validate", cwd=tmp_path / "it").returncode == 0


def test_classes_and_counts_are_printed_and_written_to_the_config(
    tmp_path: Path, run_ftkit: RunFtkit, image_folder: MakeFolder
) -> None:
    data = image_folder(tmp_path / "my data", {"train": {"ants": 4, "[b]ees": 3}, "test": {"ants": 2, "[b]ees": 2}})
    (data / "train" / "ants" / "torn.jpg").write_bytes(b"not an image")
    done = run_ftkit("init", "it", "--data", str(data), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:4] == [
        f"found {data}: 2 classes; train 8, test 4 images",
        "median image size 40 x 32 pixels, in colour",
        "  [b]ees  3",
        "  ants    5",
    ]
    text = (tmp_path / "it" / "ftkit.yaml").read_text(encoding="utf-8")
    assert "  # train: 8 images\n  # test: 4 images\n  #   [b]ees: 3\n  #   ants: 5\n" in text


def test_a_csv_file_is_read(tmp_path: Path, run_ftkit: RunFtkit) -> None:
    save_images(tmp_path / "images", "RGB", (64, 48), 2)
    rows = ["path,label", *(f"images/{name}/{number}.png,{name}" for name in "ab" for number in range(2))]
    (tmp_path / "table.csv").write_text("\n".join(rows), encoding="utf-8")
    done = run_ftkit("init", "it", "--data", "table.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert config_of(tmp_path / "it")["dataset"] == {"name": "csv", "path": str(tmp_path / "table.csv")}
    assert run_ftkit("plan", cwd=tmp_path / "it").returncode == 0


def test_data_inside_the_project_has_a_relative_path(tmp_path: Path, run_ftkit: RunFtkit) -> None:
    save_images(tmp_path / "it" / 'da: #"ta', "L", (28, 28), 2)
    done = run_ftkit("init", ".", "--data", 'da: #"ta', "--force", cwd=tmp_path / "it")
    assert done.returncode == 0, done.stderr
    (tmp_path / "it").rename(tmp_path / "moved")
    assert config_of(tmp_path / "moved")["dataset"]["root"] == 'da: #"ta'
    assert run_ftkit("plan", cwd=tmp_path / "moved").returncode == 0


def test_the_project_cannot_be_inside_the_data(tmp_path: Path, run_ftkit: RunFtkit) -> None:
    save_images(tmp_path / "images", "RGB", (8, 8), 2)
    done = run_ftkit("init", "images/it", "--data", "images", cwd=tmp_path)
    assert done.returncode == 2
    assert "would be read as classes" in done.stderr
    assert not (tmp_path / "images" / "it").exists()


@pytest.mark.parametrize("path", ["nowhere", "empty", "notes.txt"])
def test_unusable_data_is_one_error_and_creates_nothing(path: str, tmp_path: Path, run_ftkit: RunFtkit) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    done = run_ftkit("init", "it", "--data", path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert path in done.stderr.splitlines()[0]
    assert [line.split(":")[0] for line in done.stderr.splitlines()] in (["error"], ["error", "hint"])
    assert names_in(tmp_path) == ["empty", "notes.txt"]


@pytest.mark.parametrize("name", ["torch", "test", "ftkit", "日本"])
def test_an_invalid_name_is_refused(name: str, tmp_path: Path, run_ftkit: RunFtkit) -> None:
    done = run_ftkit("init", name, cwd=tmp_path)
    assert done.returncode == 2
    assert "--name" in done.stderr
    assert names_in(tmp_path) == []
    assert run_ftkit("init", name, "--name", "My project", cwd=tmp_path).returncode == 0
    assert files_in(tmp_path / name) == FILES


def test_the_working_folder_is_accepted_if_empty(tmp_path: Path, run_ftkit: RunFtkit) -> None:
    here = tmp_path / "my-project"
    here.mkdir()
    before = here.stat().st_ino
    done = run_ftkit("init", ".", cwd=here)
    assert done.returncode == 0, done.stderr
    assert here.stat().st_ino == before, "a shell in it would sit in a folder that is gone"
    assert files_in(here) == FILES
    assert "cd " not in done.stdout


def test_a_folder_with_files_requires_force_which_keeps_them(tmp_path: Path, run_ftkit: RunFtkit) -> None:
    there = tmp_path / "my-project"
    there.mkdir()
    (there / "mine.txt").write_text("mine")
    (there / "README.md").write_text("old")
    refused = run_ftkit("init", "my-project", cwd=tmp_path)
    assert refused.returncode == 2
    assert "is not empty: README.md, mine.txt" in refused.stderr
    assert files_in(there) == ["README.md", "mine.txt"]
    forced = run_ftkit("init", "my-project", "--force", cwd=tmp_path)
    assert forced.returncode == 0, forced.stderr
    assert "overwritten: README.md\n" in forced.stdout
    assert files_in(there) == sorted([*FILES, "mine.txt"])
    assert (there / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("target", "limit"), [("my-project", 10_000), ("a/b/my-project", 10_000), ("there", 10_000), ("my-project", 2_000)]
)
def test_a_full_disk_leaves_nothing_behind(target: str, limit: int, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "README.md").write_text("old")
    done = subprocess.run(
        [sys.executable, "-m", "ftkit", "init", target, "--name", "my-project", "--force"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        # No file may grow beyond this, as on a disk that fills up midway: only the schema has over 10 kB.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"], done.stderr
    assert "File too large" in done.stderr
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["there", "there/README.md"]
    assert (tmp_path / "there" / "README.md").read_text() == "old"


def test_a_read_only_folder_is_one_error(run_ftkit: RunFtkit) -> None:
    done = run_ftkit("init", "/proc/my-project")
    assert done.returncode == 1
    assert done.stderr.startswith("error: can't write /proc/my-project: ")
    assert len(done.stderr.splitlines()) == 2
