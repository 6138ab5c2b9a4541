"""What a run is asked to do: layers of settings, the checks on them, and the way back to YAML."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import TypeAdapter

from ftkit.api import Strategy, Then
from ftkit.config.choices import KEY_PEERS
from ftkit.config.json_schema import json_schema
from ftkit.config.load import build, project_plugins, resolve, to_yaml
from ftkit.config.problems import ConfigError
from ftkit.config.schema import Config
from ftkit.errors import RequestError
from tests.models import REGISTRY, part, parts

PLUGIN = '''
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftkit.api import Dataset, RequestError, Splits, Strategy, hookimpl


@dataclass(frozen=True)
class Shelf(Dataset):
    """Boxes on a shelf."""

    root: Path
    boxes: tuple[str, ...] = ("a", "b")
    extra: list[Path] | None = None
    label: str = "none"
    share: float = 0.5
    order: Literal["left", "right"] = "left"

    def __post_init__(self) -> None:
        if self.share > 1:
            raise RequestError("dataset.share is more than all", "give at most 1")
        if self.label == "bad":
            raise ValueError("label can't be bad")

    def load(self) -> Splits:
        raise NotImplementedError


@hookimpl
def ftkit_datasets():
    return {"shelf": Shelf}
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, away from any ftkit.yaml of this project."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "ftkit.yaml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def asked(*sets: str, file: Path | None = None) -> Config:
    return resolve(file, sets=sets).config


def refused(*sets: str, file: Path | None = None, env: dict[str, str] | None = None) -> str:
    with pytest.raises(RequestError) as caught:
        resolve(file, sets=sets, env=env)
    return str(caught.value)


# Layers


def test_without_a_file_the_defaults_hold(folder: Path) -> None:
    resolved = resolve()
    assert (resolved.config.dataset.name, resolved.config.backbone, resolved.config.strategy.name) == (
        "digits",
        "auto",
        "gradual",
    )
    assert resolved.config.output == str(folder / "runs")
    assert resolved.sources == {}


def test_each_layer_covers_the_one_below() -> None:
    write("epochs: 1\nbatch_size: 1\nseed: 1\npatience: 1\n")
    env = {"FTKIT_BATCH_SIZE": "2", "FTKIT_SEED": "2", "FTKIT_PATIENCE": "2", "HOME": "/", "FTKIT_DEBUG": "1"}
    resolved = resolve(None, {"seed": ("--seed", 3), "patience": ("--patience", "3")}, ["patience=4"], env)
    config = resolved.config
    assert (config.epochs, config.batch_size, config.seed, config.patience) == (1, 2, 3, 4)
    assert resolved.sources == {
        "epochs": "ftkit.yaml:1",
        "batch_size": "FTKIT_BATCH_SIZE",
        "seed": "--seed",
        "patience": "--set patience",
    }


def test_a_file_given_by_name_takes_the_place_of_the_one_that_is_here() -> None:
    write("epochs: 1\nseed: 5\n")
    other = write("epochs: 2\n", "other/long.yaml")
    resolved = resolve(other)
    assert (resolved.config.epochs, resolved.config.seed) == (2, 0)
    assert resolved.sources == {"epochs": "other/long.yaml:1"}


def test_environment_reaches_nested_keys_and_leaves_reserved_names_alone() -> None:
    env = {
        "FTKIT_STRATEGY": "gradual",
        "FTKIT_STRATEGY__DECAY": "0.25",
        "FTKIT_OPTIMIZER__LR": "1e-2",
        "FTKIT_DISABLE_PLUGINS": "x",
        "FTKIT_TEST_ANYTHING": "1",
    }
    config = resolve(env=env).config
    assert config.strategy.options["decay"] == 0.25
    assert config.optimizer.lr == 0.01


def test_the_last_set_wins_and_null_clears() -> None:
    write("patience: 3\n")
    config = asked("epochs=1", "epochs=2", "patience=null", "optimizer.betas=[0.8, 0.9]")
    assert (config.epochs, config.patience, config.optimizer.options["betas"]) == (2, None, [0.8, 0.9])


def test_another_name_drops_the_options_of_the_first_but_keeps_the_learning_rate() -> None:
    write("optimizer: {name: sgd, lr: 0.5, momentum: 0.9}\nstrategy:\n  decay: 0.25\n  name: gradual\n")
    config = resolve(None, {"optimizer.name": ("--optimizer", "adam"), "strategy": ("--strategy", "full")}).config
    assert (config.optimizer.name, config.optimizer.lr, "momentum" in config.optimizer.options) == ("adam", 0.5, False)
    assert config.strategy.name == "full"
    assert "decay" not in config.strategy.options


def test_options_of_a_default_go_when_another_name_is_chosen() -> None:
    write("optimizer: {weight_decay: 0.1}\n")
    assert asked("optimizer=sgd").optimizer.options["weight_decay"] == 0.0
    assert asked().optimizer.options["weight_decay"] == 0.1


def test_options_stay_when_the_same_name_is_given_again_or_none() -> None:
    write("strategy: {name: gradual, decay: 0.25}\n")
    assert asked("strategy=gradual").strategy.options["decay"] == 0.25
    assert asked("strategy.every=2").strategy.options == {"every": 2, "decay": 0.25}


def test_a_section_with_every_line_commented_out_is_as_if_absent() -> None:
    write("preprocessing:\n  # size: 64\noptimizer:\nplugins:\n")
    assert asked() == resolve(write("", "empty.yaml")).config


def test_set_reaches_into_strategies_inside_strategies() -> None:
    config = asked("strategy={name: then, first: freeze, second: gradual, at: 3}", "strategy.second.decay=0.25")
    assert config.strategy.options == {"first": "freeze", "second": {"name": "gradual", "decay": 0.25}, "at": 3}


# YAML


def test_scalars_have_the_types_they_are_written_as() -> None:
    write("optimizer: {lr: 1e-3}\nname: 007\nweights: none\n")
    config = asked()
    assert (config.optimizer.lr, config.name, config.weights) == (0.001, "007", "none")
    assert asked("name=1e-3").name == "1e-3"
    assert asked("name=2024-01-01").name == "2024-01-01"
    assert asked("name=a: b #c").name == "a: b #c"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs: 3\nepochs: 4\n", "ftkit.yaml:2: epochs: given twice, first in line 1"),
        ("optimizer:\n  lr: 1\n  lr: 2\n", "ftkit.yaml:3: optimizer.lr: given twice"),
        ("epochs: [1\n", "ftkit.yaml:2: not valid YAML"),
        ("epochs: 1\n\tseed: 2\n", "ftkit.yaml:2: not valid YAML"),
        ("- epochs\n", "ftkit.yaml: not a mapping of keys to values"),
        ("epochs: !!python/object/apply:os.system [id]\n", "ftkit.yaml:1: not a plain value"),
        ("name: &a x\nweights: *a\n", "ftkit.yaml:2: not valid YAML: *a refers to another value"),
        ("? [a, b]\n: 1\n", "ftkit.yaml:1: a key must be plain text"),
        ("epochs: 1\n---\nepochs: 2\n", "not valid YAML"),
        ("\n\nepochs: ten\n", "ftkit.yaml:3: epochs: must be a whole number, not 'ten'"),
        ("epochz: 1\n", "ftkit.yaml:1: epochz: unknown key, did you mean 'epochs'?"),
        ("batch-size: 1\n", "did you mean 'batch_size'?"),
        ("learning_rate: 1\n", "did you mean 'optimizer.lr'?"),
        ("augment: no\n", "ftkit.yaml:1: augment.name: unknown level 'no' (did you mean 'none'?)"),
        ("augment: false\n", "ftkit.yaml:1: augment: must be a number or text, not false"),
        ("augment: {name: none, flip: 0.5}\n", "ftkit.yaml:1: augment.flip: unknown key; there are no options"),
        ("augment: {name: light, flip: true}\n", "ftkit.yaml:1: augment.flip: must be a number, not true"),
        ("augment: {scale: [0.5]}\n", "augment.scale"),
        ("group_lr: {head: 0}\n", "ftkit.yaml:1: group_lr.head: must be more than 0, not 0"),
        ("group_lr: {head: true}\n", "ftkit.yaml:1: group_lr.head: must be a number or text, not true"),
        ("group_lr: {head: .inf}\n", "ftkit.yaml:1: group_lr.head: must be a finite number, not inf"),
        ("optimizer: sgd\ndecay_all: true\n", "ftkit.yaml:2: decay_all: optimizer sgd has no weight decay by default"),
        ("optimizer: rprop\ndecay_all: true\n", "optimizer rprop has no weight decay; these have: adadelta, "),
        ("optimizer: {weight_decay: 0}\ndecay_all: true\n", "decay_all: optimizer adamw has no weight decay"),
        ("epochs: true\n", "ftkit.yaml:1: epochs: must be a number or text, not true"),
        ("workers: -1\n", "workers: must be 0 or more or 'auto', not -1"),
        ("preprocessing:\n  sise: 3\n", "ftkit.yaml:2: preprocessing.sise: unknown key, did you mean 'size'?"),
        ("strategy:\n  decya: 3\n", "ftkit.yaml:2: strategy.decya: unknown key, did you mean 'decay'?"),
        ("strategy: grdual\n", "ftkit.yaml:1: strategy.name: unknown strategy 'grdual' (did you mean 'gradual'?)"),
        ("backbone: resnt18\n", "ftkit.yaml:1: backbone: unknown backbone 'resnt18' (did you mean 'resnet18'?)"),
        ("optimizer: adamv\n", "unknown optimizer 'adamv' (did you mean 'adam"),
        ("lr_curve: onecycle\n", "unknown curve 'onecycle' (did you mean 'one-cycle'?)"),
        ("dataset: folder\n", "ftkit.yaml:1: dataset.root: missing, give it with --set dataset.root=PATH"),
        ("lr_curve: {name: step, every: 0}\n", "lr_curve.every is 0 (give a number of epochs from 1)"),
        ("plugins: a.py\n", "ftkit.yaml:1: plugins: must be a list, not 'a.py'"),
        ("plugins: [a.py]\n", "plugins: no file "),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line_and_remedy(text: str, says: str) -> None:
    write(text)
    assert says in refused()


def test_every_fault_is_reported_and_the_first_is_the_message() -> None:
    write("epochs: ten\nseed: -1\n")
    with pytest.raises(ConfigError) as caught:
        resolve()
    assert caught.value.message == "ftkit.yaml:1: epochs: must be a whole number, not 'ten'"
    assert caught.value.others == ("ftkit.yaml:2: seed: must be 0 or more, not -1",)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("FTKIT_EPOCS", "FTKIT_EPOCS: unknown variable (did you mean FTKIT_EPOCHS?)"),
        ("FTKIT_LR", "did you mean FTKIT_OPTIMIZER__LR?"),
        ("FTKIT_EPOCHS", "FTKIT_EPOCHS: must be a whole number, not 'x'"),
        ("FTKIT_CHECKPOINT__KEP", "FTKIT_CHECKPOINT__KEP: unknown key, did you mean 'keep'?"),
    ],
)
def test_a_mistake_in_the_environment_is_named_with_its_variable(name: str, says: str) -> None:
    assert says in refused(env={name: "x"})


def test_files_that_cannot_be_read_are_named(folder: Path) -> None:
    assert refused(file=Path("no.yaml")).startswith("no.yaml: no such file")
    assert "can't be read" in refused(file=folder)
    Path("bad.yaml").write_bytes(b"name: \xff\xfe")
    assert refused(file=Path("bad.yaml")) == "bad.yaml: not a text file in UTF-8"


def test_rates_of_groups_add_up_and_names_may_have_dots() -> None:
    write("group_lr: {head: 1e-3, features.0: 1e-4}\n")
    assert asked("group_lr.features.0=2e-4").group_lr == {"head": 1e-3, "features.0": 2e-4}
    assert resolve(sets=["group_lr.features.0=2e-4"]).sources["group_lr.features.0"] == "--set group_lr.features.0"


def test_augmentation_options_stay_with_their_level() -> None:
    write("augment: {name: standard, flip: 0}\n")
    assert asked().augment.options["flip"] == 0
    assert asked("augment.scale=[0.5, 1]").augment.options["scale"] == [0.5, 1.0]
    assert asked("augment=strong").augment.options["flip"] == 0.5


# Paths


def test_paths_start_from_the_file_that_names_them_and_else_from_here(folder: Path) -> None:
    file = write("output: out\nweights: w/net.th\ndataset: {name: folder, root: ../photos}\n", "conf/a.yaml")
    config = asked(file=file)
    assert config.output == str(folder / "conf/out")
    assert config.weights == str(folder / "conf/w/net.th")
    assert config.dataset.options["root"] == str(folder / "photos")
    over = asked("output=out", "weights=net.pth", "dataset.root=photos", file=file)
    assert (over.output, over.weights) == (str(folder / "out"), str(folder / "net.pth"))
    assert over.dataset.options["root"] == str(folder / "photos")
    assert asked("weights=IMAGENET1K_V1").weights == "IMAGENET1K_V1"


def test_a_projects_own_plugin_is_found_beside_its_config(folder: Path) -> None:
    write(PLUGIN, "conf/my_shelf.py")
    file = write("plugins: [my_shelf.py]\ndataset: {name: my-shelf/shelf, root: boxes, extra: [x]}\n", "conf/a.yaml")
    config = asked("dataset.label=42", file=file)
    assert config.plugins == (str(folder / "conf/my_shelf.py"),)
    assert project_plugins(file) == (folder / "conf/my_shelf.py",)
    assert config.dataset.options == {
        "root": str(folder / "conf/boxes"),
        "boxes": ["a", "b"],
        "extra": [str(folder / "conf/x")],
        "label": "42",
        "share": 0.5,
        "order": "left",
    }


# Options of classes


@pytest.fixture
def shelf() -> Path:
    write(PLUGIN, "my_shelf.py")
    return write("plugins: [my_shelf.py]\ndataset: {name: my-shelf/shelf, root: boxes}\n")


def test_options_arrive_in_the_types_of_the_class(shelf: Path, folder: Path) -> None:
    resolved = resolve(sets=["dataset.boxes=[c, d]", "dataset.share=1"])
    cls: Any = resolved.registry.datasets.get("my-shelf/shelf")
    made = build(resolved, "dataset")
    assert made == cls(root=folder / "boxes", boxes=("c", "d"), share=1.0)


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        ("dataset.bocks=[c]", "--set dataset.bocks: unknown key, did you mean 'boxes'?"),
        ("dataset.share=lots", "--set dataset.share: must be a number, not 'lots'"),
        ("dataset.order=up", "--set dataset.order: must be one of left, right, not 'up'"),
        ("dataset.share=2", "dataset.share is more than all (give at most 1)"),
        ("dataset.label=bad", "dataset: label can't be bad"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line(shelf: Path, sets: str, says: str) -> None:
    assert says in refused(sets)


@pytest.mark.parametrize(("given", "says"), [("[1]", "2 values or more, not [1]"), ("[1, 2, 3]", "2 values at most")])
def test_a_list_of_another_length_is_reported_in_words(given: str, says: str) -> None:
    with pytest.raises(RequestError, match=re.escape(f"--set strategy.milestones: must be {says}")):
        resolve(sets=["strategy=milestones", f"strategy.milestones={given}"])


def test_strategies_inside_strategies_are_built() -> None:
    resolved = resolve(sets=["strategy={name: then, first: freeze, second: {name: full}, at: 3}"])
    made = build(resolved, "strategy")
    assert isinstance(made, Then)
    assert isinstance(made.first, Strategy)
    assert made.second.lr_scales(0, 2, ("body", "head")) == {"body": 0.1, "head": 1.0}


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ("grdual", "unknown strategy 'grdual' (did you mean 'gradual'?)"),
        ("{name: gradual, dcay: 1}", "strategy.second.dcay: unknown key, did you mean 'decay'?"),
        ("3", "strategy.second: must be the name of a strategy, not 3"),
    ],
)
def test_a_mistake_inside_a_strategy_inside_a_strategy_is_named(second: str, says: str) -> None:
    write(f"strategy:\n  name: then\n  first: freeze\n  at: 3\n  second: {second}\n")
    assert says in refused()


def test_curves_get_their_options() -> None:
    resolved = resolve(sets=["lr_curve={name: step, every: 3}"])
    assert build(resolved, "lr_curve") == part("curves", "step")(every=3)


# And back


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name: '007'\nweights: none\noptimizer: {name: adamw, lr: 1e-3, betas: [0.9, 0.99]}\n",
        "name: '1e-3'\naugment: none\npreprocessing: {mean: [0.5], std: [0.25], size: 28}\n",
        "dataset: {name: folder, root: photos}\nstrategy: {name: milestones, milestones: [2, 4]}\n",
        "strategy: {name: then, first: freeze, second: {name: gradual, decay: 0.25}, at: 3}\npatience: 3\n",
        "augment: {name: strong, scale: [0.5, 1], hue: 0.1}\ngroup_lr: {head: 1e-3, features.0: 1e-4}\n",
        "name: 'no'\nlr_curve: {name: one-cycle, rise: 0.25, warmup_epochs: 1}\nworkers: 0\n",
    ],
)
def test_the_config_written_out_is_the_same_config(
    text: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = asked(file=write(text, "a.yaml"))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    again = asked(file=write(to_yaml(first), "config.yaml"))
    assert again == first
    assert to_yaml(again) == to_yaml(first)


def test_the_written_config_has_the_defaults_of_options_too(shelf: Path, folder: Path) -> None:
    written = yaml.safe_load(to_yaml(resolve(sets=["dataset.boxes=[c]"]).config))
    assert written["dataset"]["boxes"] == ["c"]
    assert written["dataset"]["share"] == 0.5
    assert written["epochs"] == 10


def test_a_python_value_and_a_yaml_value_make_equal_configs(folder: Path) -> None:
    given = {"optimizer": ("optimizer", {"betas": (0.9, 0.99)}), "output": ("output", Path("runs"))}
    assert resolve(None, given).config == asked("optimizer.betas=[0.9, 0.99]")


# Names


def test_optimizers_are_those_of_torch_that_take_a_plain_step() -> None:
    import torch

    classes = {
        name.lower()
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
    }
    assert set(parts("optimizers")) == classes - {"optimizer", "lbfgs", "sparseadam", "muon"}


def test_other_tools_names_lead_to_keys_that_exist() -> None:
    for ours in KEY_PEERS.values():
        assert ours.split(".")[0] in Config.model_fields
    assert not KEY_PEERS.keys() & Config.model_fields.keys()


# The schema


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json_schema(REGISTRY)


def accepted(schema: dict[str, Any], text: str) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(yaml.safe_load(text)))


def test_the_schema_is_valid_and_describes_every_key(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    assert TypeAdapter(dict[str, Any]).validate_json(json.dumps(schema)) == schema
    undescribed = [key for key, value in schema["properties"].items() if not value.get("description")]
    assert undescribed == []


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "dataset: digits\nbackbone: resnet18\nepochs: 3",
        "dataset: {name: folder, root: photos}",
        "strategy: {decay: 0.25}",
        "strategy: {name: then, first: freeze, second: {name: full}, at: 3}",
        "optimizer: {name: sgd, lr: 0.1, momentum: 0.9}\nlr_curve: {name: step, every: 3}",
        "augment: strong\ngroup_lr: {layer4: 0.0001}",
        "augment: {name: standard, scale: [0.5, 1], flip: 0}",
        "preprocessing: {size: 64, mean: [0.5, 0.5, 0.5]}\nworkers: auto",
    ],
)
def test_the_schema_accepts_what_loads(schema: dict[str, Any], text: str) -> None:
    resolve(write(text))
    assert accepted(schema, text)


@pytest.mark.parametrize(
    "text",
    [
        "epochz: 3",
        "epochs: three",
        "backbone: resnt18",
        "dataset: folder",
        "dataset: {name: digits, root: x}",
        "strategy: {name: full, decay: 0.5}",
        "strategy: {name: then, first: freeze, second: fll, at: 3}",
        "optimizer: lbfgs",
        "lr_curve: {name: cosine, every: 3}",
        "augment: {name: none, flip: 0}",
        "augment: stronger",
        "group_lr: {head: 0}",
        "preprocessing: {sise: 3}",
    ],
)
def test_the_schema_refuses_what_does_not_load(schema: dict[str, Any], text: str) -> None:
    with pytest.raises(RequestError):
        resolve(write(text))
    assert not accepted(schema, text)


def test_an_option_that_the_optimizer_has_not_got_is_refused_with_its_place() -> None:
    with pytest.raises(RequestError) as caught:
        resolve(None, {}, ["optimizer=sgd", "optimizer.momentun=0.9"], {})
    assert str(caught.value) == "--set optimizer.momentun: unknown key, did you mean 'momentum'?"
