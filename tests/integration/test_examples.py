"""The recipes of `examples/`: every command of every README works, in short form here, in full where the data is."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit.cli.main import main
from tests.conftest import MakeFolder
from tests.runs import card

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RECIPES = sorted(folder.name for folder in EXAMPLES.iterdir() if folder.is_dir())
ANTS, CIFAR, MNIST, FOUR, PHASES = RECIPES

Run = Callable[..., None]
Evaluation = Callable[[str, str], float]


def commands(recipe: str) -> list[list[str]]:
    """The arguments of each `ftkit` line in the README's blocks of shell commands."""
    return commands_in((EXAMPLES / recipe / "README.md").read_text(encoding="utf-8"))


def commands_in(text: str) -> list[list[str]]:
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    assert all(line.startswith("ftkit ") for line in lines if line)
    return [shlex.split(line, comments=True)[1:] for line in lines if line]


def trainings(recipe: str) -> list[list[str]]:
    return [command for command in commands(recipe) if command[0] == "train"]


@pytest.fixture(scope="module")
def insects(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": {"ants": 4, "bees": 4}, "val": {"ants": 2, "bees": 2}}
    return image_folder(tmp_path_factory.mktemp("insects"), layout)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": dict.fromkeys("abc", 5), "test": dict.fromkeys("abc", 2)}
    return image_folder(tmp_path_factory.mktemp("objects"), layout)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": dict.fromkeys("0123456789", 8), "test": dict.fromkeys("0123456789", 2)}
    return image_folder(tmp_path_factory.mktemp("digits"), layout, (12, 12))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line of a recipe in a copy of its folder, which a test may look into afterwards."""
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))

    def in_copy(recipe: str, *arguments: str) -> None:
        if not (tmp_path / recipe).exists():
            shutil.copytree(EXAMPLES / recipe, tmp_path / recipe)
        monkeypatch.chdir(tmp_path / recipe)
        code = main(list(arguments))
        assert code == 0, f"ftkit {shlex.join(arguments)}: {capsys.readouterr().err}"

    return in_copy


def shortened(command: list[str], *more: str, epochs: int = 1) -> list[str]:
    """The command on little data, from random weights where it doesn't name a run to start from."""
    weights = [] if "--weights" in command else ["--weights", "none"]
    return [*command, *weights, "--workers", "0", "--batch-size", "4", "--epochs", str(epochs), "--quiet", *more]


def comparisons(recipe: str) -> list[list[str]]:
    return [[*command, "--workers", "0"] for command in commands(recipe) if command[0] == "compare"]


def plan_of(recipe: str, file: str, data: Path, **settings: Any) -> ftkit.Plan:
    return ftkit.plan(EXAMPLES / recipe / file, dataset={"name": "folder", "root": str(data)}, **settings)


# In short form


def test_each_recipe_is_listed() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(.*?)\]\((.*?)\)", text, re.MULTILINE) == [(name, name) for name in RECIPES]


def test_the_page_of_recipes_has_commands_of_each() -> None:
    page = (EXAMPLES.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    sections = [section for section in page.split("\n## ") if "../examples/" in section and "```sh" in section]
    linked = [re.findall(r"\(\.\./examples/(.+?)\)", section) for section in sections]
    assert linked == [[name] for name in RECIPES]
    for recipe, section in zip(RECIPES, sections, strict=True):
        assert commands_in(section)
        assert [command for command in commands_in(section) if command not in commands(recipe)] == []


def test_each_config_is_used_by_a_command() -> None:
    for recipe in RECIPES:
        named = {command[command.index("-c") + 1] if "-c" in command else "ftkit.yaml" for command in trainings(recipe)}
        assert named == {file.name for file in (EXAMPLES / recipe).glob("*.yaml")}


def test_ants_and_bees(run: Run, insects: Path, tmp_path: Path) -> None:
    ran = trainings(ANTS)
    assert len(ran) == 7
    for command in ran:
        size = ["--data", str(insects), "--image-size", "32"]
        if "vgg11" in command:
            # Its 129 million parameters take their time to save; how it would train shows in its plan.
            run(ANTS, "plan", *command[1:], *size)
        else:
            small = [] if "--backbone" in command else ["--backbone", "cifar_resnet20"]
            run(ANTS, *shortened(command, *size, *small))
    for command in comparisons(ANTS):
        run(ANTS, *command)
    runs = tmp_path / ANTS / "runs"
    assert card(runs / "from-features" / "model")["weights"] == f"file {runs}/features/model/model.safetensors"
    assert card(runs / "scratch" / "model")["classes"] == ["ants", "bees"]


def test_the_features_of_the_ants_stay_and_only_their_head_learns(insects: Path) -> None:
    plan = plan_of(ANTS, "ftkit.yaml", insects)
    assert {tuple(row) for row in plan.schedule.rows} == {("head",)}
    rates = plan_of(ANTS, "ftkit.yaml", insects, strategy="full").peak_rates(0)
    assert rates == {"stem": 1e-4, "layer1": 1e-4, "layer2": 1e-4, "layer3": 1e-4, "layer4": 1e-4, "head": 1e-3}


def test_the_freezer(run: Run, objects: Path) -> None:
    train, evaluate = commands(CIFAR)
    run(CIFAR, *shortened(train, "--data", str(objects), "--backbone", "cifar_resnet20", epochs=6))
    run(CIFAR, *evaluate, "--workers", "0")


def test_the_freezer_holds_what_it_names_for_five_epochs(objects: Path) -> None:
    plan = plan_of(CIFAR, "ftkit.yaml", objects)
    frozen = [{"conv1", "layer1", "layer2", "layer3"} - row.keys() for row in plan.schedule.rows]
    assert frozen == [{"conv1", "layer1", "layer2", "layer3"}] * 5 + [set()] * 10
    assert plan.to_json()["augment"]["scale"] == (0.5, 1.0)
    assert plan.to_json()["augment"]["ratio"] == (0.75, 1.3333)
    assert plan.config.optimizer.options["weight_decay"] == 1e-5


def test_pretraining_and_transfer(run: Run, digits: Path, tmp_path: Path) -> None:
    for command in trainings(MNIST):
        less = ["--train-samples", "20"] if "pretrain.yaml" not in command else []
        run(MNIST, *shortened(command, "--data", str(digits), *less))
    for command in comparisons(MNIST):
        run(MNIST, *command)
    cards = {folder.name: card(folder / "model") for folder in (tmp_path / MNIST / "runs").iterdir()}
    assert {name: found["classes"] for name, found in cards.items()} == {
        "pretrained": list("01234"),
        "even-or-odd": ["even", "odd"],
        "even-or-odd-scratch": ["even", "odd"],
        "other-digits": list("56789"),
        "other-digits-scratch": list("56789"),
    }
    assert cards["other-digits"]["weights"].endswith("/runs/pretrained/model/model.safetensors")


STRATEGY_OPTIONS = {
    "no_freeze": [],
    "freeze": [],
    "freeze_unfreeze": ["--set", "strategy.unfreeze_epoch=1"],
    "unfreeze_milestones": ["--set", "strategy.milestones=[1,2]"],
    "outside-in/outside-in": ["--set", "strategy.switch=1"],
}


def test_the_four_strategies_and_the_fifth(run: Run, insects: Path) -> None:
    for command in commands(FOUR):
        if command[0] == "train":
            options = STRATEGY_OPTIONS[command[command.index("--strategy") + 1]]
            small = ["--data", str(insects), "--backbone", "cifar_resnet20", "--image-size", "16"]
            run(FOUR, *shortened(command, *small, *options, epochs=3))
        else:
            run(FOUR, *command)
    assert [c[c.index("--strategy") + 1] for c in trainings(FOUR)] == list(STRATEGY_OPTIONS)


def test_the_fifth_strategy_is_ten_lines_and_does_what_it_says(insects: Path) -> None:
    source = (EXAMPLES / FOUR / "outside_in.py").read_text(encoding="utf-8")
    assert len([line for line in source.splitlines() if line and '"""' not in line]) == 11
    plan = plan_of(FOUR, "ftkit.yaml", insects, strategy="outside-in/outside-in")
    assert [len(row) for row in plan.schedule.rows] == [2] * 5 + [6] * 5


def test_the_two_phases(run: Run, insects: Path, tmp_path: Path) -> None:
    for command in trainings(PHASES):
        option = ["--set", "strategy.unfreeze_epoch=1"] if "two-phases.yaml" in command else []
        run(PHASES, *shortened(command, "--data", str(insects), "--image-size", "32", *option, epochs=2))
    for command in comparisons(PHASES):
        run(PHASES, *command)
    assert card(tmp_path / PHASES / "runs" / "two-phases" / "model")["head"]["hidden"] == 512


def test_the_two_phases_have_the_rates_that_they_say(insects: Path) -> None:
    plan = plan_of(PHASES, "two-phases.yaml", insects)
    steps = plan.batches.steps
    rates = [{g: pytest.approx(r) for g, r in plan.learning_rates(epoch * steps).items()} for epoch in range(10)]
    groups = ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert [{**row} for row in rates[:5]] == [{"head": 0.01}] * 5
    assert [{**row} for row in rates[5:]] == [dict.fromkeys(groups, 0.0001)] * 5
    assert (plan.head.hidden, plan.head.dropout) == (512, 0.3)
    own = plan_of(PHASES, "layer-rates.yaml", insects)
    assert own.learning_rates(own.steps - 1) == {
        "stem": 1e-7,
        "layer1": 1e-7,
        "layer2": 1e-6,
        "layer3": 1e-5,
        "layer4": 1e-4,
        "head": 1e-3,
    }


# In full, where the data is


@pytest.fixture
def scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Evaluation:
    """The accuracy of a finished run on its test split, or else its validation split."""

    def measure(recipe: str, name: str) -> float:
        monkeypatch.chdir(tmp_path / recipe)
        capsys.readouterr()
        assert main(["evaluate", f"runs/{name}", "--json", "--workers", "0"]) == 0
        accuracy: float = json.loads(capsys.readouterr().out)["accuracy"]
        return accuracy

    return measure


def named(command: list[str]) -> str:
    return command[command.index("--name") + 1]


def small_network(shared: Path, command: list[str]) -> list[str]:
    """ImageNet's weights aren't there, so those that a ResNet-20 learnt CIFAR-10 with stand in for them."""
    weights = [] if "--weights" in command else ["--weights", str(shared / "weights" / "resnet20-12fca82f.th")]
    return ["--backbone", "cifar_resnet20", *weights, "--quiet"]


@pytest.mark.long
@pytest.mark.parametrize("recipe", [ANTS, FOUR])
def test_insects_in_full(recipe: str, run: Run, scores: Evaluation, shared: Path) -> None:
    data = ["--data", str(shared / "data" / "hymenoptera"), "--image-size", "64"]
    ran = [command for command in trainings(recipe) if "--backbone" not in command]
    for command in ran:
        run(recipe, *command, *data, *small_network(shared, command))
    # Always the same answer is right for 54 % of the images.
    accuracy = {named(command): scores(recipe, named(command)) for command in ran}
    assert all(value > 0.6 for value in accuracy.values()), accuracy


@pytest.mark.long
def test_the_freezer_in_full(run: Run, scores: Evaluation, shared: Path) -> None:
    train, evaluate = commands(CIFAR)
    data = ["--data", str(shared / "data" / "cifar10-subset.tar")]
    run(CIFAR, *train, *data, *small_network(shared, train))
    run(CIFAR, *evaluate)
    assert scores(CIFAR, "freezer") > 0.78


@pytest.mark.long
def test_pretraining_and_transfer_in_full(run: Run, scores: Evaluation, shared: Path) -> None:
    for command in trainings(MNIST):
        root = f"dataset.root={shared / 'data' / 'torchvision'}"
        run(MNIST, *command, "--set", root, "--set", "dataset.download=false", "--quiet")
    assert scores(MNIST, "even-or-odd") > scores(MNIST, "even-or-odd-scratch")
    assert scores(MNIST, "other-digits") > 0.94


@pytest.mark.long
def test_the_two_phases_in_full(run: Run, shared: Path) -> None:
    data = ["--data", str(shared / "data" / "hymenoptera"), "--image-size", "64", "--weights", "none", "--quiet"]
    for command in trainings(PHASES):
        run(PHASES, *command, *data)
