"""`ftkit KIND list|show` for every kind of part, as a subprocess."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

PLUGIN = '''
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ftkit.api import Dataset, Splits, Strategy, hookimpl


@dataclass(frozen=True)
class Ends(Strategy):
    """The stem and the head [both] train.

    Attributes:
        pace: LR scale of the stem,
            which is the input's end.
        mode: Does nothing.
    """

    pace: float = 0.25
    mode: Literal["a", "b"] = "a"

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        return {groups[0]: self.pace, groups[-1]: 1.0}


@dataclass(frozen=True)
class Bare(Dataset):
    where: str
    tags: tuple[str, ...] = ()
    limit: int | None = None

    def load(self) -> Splits:
        raise NotImplementedError


class Lazy(dict):
    def __getitem__(self, key):
        if key == "broken":
            raise OSError("the disc is gone")
        return super().__getitem__(key)


@hookimpl
def ftkit_strategies():
    return Lazy({"ends": Ends, "both-ends": Ends, "broken": Ends})


@hookimpl
def ftkit_datasets():
    return {"bare": Bare}
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a plugin that has one broken strategy, and a plugin that can't be imported."""
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "bad.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "ftkit.yaml").write_text("plugins: [mine.py, bad.py]\n")
    return tmp_path


def lines_of(result: subprocess.CompletedProcess[str]) -> list[str]:
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


def json_of(result: subprocess.CompletedProcess[str]) -> Any:
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def fields(lines: list[str], first: str) -> list[str]:
    """The cells of the line whose first cell is `first`."""
    found = [re.split(r"\s{2,}", line.strip()) for line in lines]
    return next(cells for cells in found if cells[0] == first)


def test_every_backbone_is_one_line(run_ftkit: Run, tmp_path: Path) -> None:
    lines = lines_of(run_ftkit("backbones", "list", cwd=tmp_path))
    assert fields(lines, "name") == ["name", "family", "input", "parameters", "weights, the default first"]
    row = ["resnet18", "resnet", "224", "11.2M", "IMAGENET1K_V1 (ImageNet-1K, top-1 69.76 %)"]
    assert fields(lines, "resnet18") == row
    assert fields(lines, "cifar_resnet20") == ["cifar_resnet20", "cifar_resnet", "32", "269K", "-"]
    assert fields(lines, "lenet")[2].endswith("grey")
    assert lines[-1].startswith("88 backbones; ")


def test_the_pattern_matches_names_in_any_spelling(run_ftkit: Run, tmp_path: Path) -> None:
    found = json_of(run_ftkit("backbones", "list", "Wide-ResNet", "--json", cwd=tmp_path))
    assert [backbone["name"] for backbone in found] == ["wide_resnet101_2", "wide_resnet50_2"]
    result = run_ftkit("backbones", "list", "resnt18", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == ("error: no backbones match 'resnt18'\nhint: did you mean 'resnet18'?\n")


def test_a_backbone_is_shown_with_groups_preprocessing_and_weights(run_ftkit: Run, tmp_path: Path) -> None:
    lines = lines_of(run_ftkit("backbones", "show", "resnet18", cwd=tmp_path))
    groups = [fields(lines, name) for name in ("stem", "layer1", "layer2", "layer3", "layer4", "head")]
    assert [int(count.replace(",", "")) for _, count in groups] == [9536, 147968, 525568, 2099712, 8393728, 0]
    assert "  IMAGENET1K_V1: ImageNet-1K, top-1 69.76 %" in lines
    assert "    resnet18-f37072fd.pth, 44.7 MB" in lines
    assert any(
        line.startswith("    RGB 224 x 224, centre crop of the image resized to 256, bilinear") for line in lines
    )


def test_a_backbone_with_a_fixed_size_is_described(run_ftkit: Run, tmp_path: Path) -> None:
    lines = lines_of(run_ftkit("backbones", "show", "lenet", cwd=tmp_path))
    assert lines[0] == "lenet: family lenet, built in; images of 28 x 28 pixels only"
    lines = lines_of(run_ftkit("backbones", "show", "vit_b_16", cwd=tmp_path))
    assert lines[0] == "vit_b_16: family vit, built in; images of at least 16 x 16 pixels, in multiples of 16"


def test_a_backbone_as_json(run_ftkit: Run, tmp_path: Path) -> None:
    found = json_of(run_ftkit("backbones", "show", "resnet18", "--json", cwd=tmp_path))
    assert (found["parameters"], found["head"], found["head_inputs"]) == (11176512, ["fc"], [512])
    assert found["groups"][0] == {"name": "stem", "parameters": 9536}
    weights = found["weights"][0]
    assert (weights["name"], weights["file"]) == ("IMAGENET1K_V1", "resnet18-f37072fd.pth")
    assert (weights["preprocessing"]["size"], weights["preprocessing"]["mean"]) == (224, [0.485, 0.456, 0.406])


def test_strategies_are_listed_once_with_their_aliases(run_ftkit: Run, tmp_path: Path) -> None:
    lines = lines_of(run_ftkit("strategies", "list", cwd=tmp_path))
    names = [line.split()[0] for line in lines[1 : lines.index("")]]
    assert names == [
        *("full", "freeze", "freeze-unfreeze", "milestones", "gradual", "discriminative"),
        *("freezer", "norms", "bias", "probe", "probe-then-finetune", "scratch", "then", "auto"),
    ]
    assert fields(lines, "scratch")[1].startswith("Every group trains at the full rate")
    assert "  full: no-freeze, no_freeze" in lines
    found = json_of(run_ftkit("strategies", "list", "--json", cwd=tmp_path))
    assert {s["name"]: s["aliases"] for s in found}["milestones"] == ["unfreeze-milestones", "unfreeze_milestones"]


def test_a_strategy_is_shown_with_options_and_schedule(run_ftkit: Run, tmp_path: Path) -> None:
    result = run_ftkit("strategies", "show", "unfreeze_milestones", cwd=tmp_path)
    lines = lines_of(result)
    assert lines[0] == "milestones, built in; aliases: unfreeze-milestones, unfreeze_milestones"
    option = lines.index("  num_layers: int, default 2")
    assert lines[option + 1].startswith("      "), "its text from the docstring"
    assert "  milestones: tuple[int, int], default [3, 8]" in lines
    table = lines[lines.index("learning-rate scale, for resnet18 and 10 epochs") + 1 :]
    assert [line.split() for line in table] == [
        ["epochs", "1-3", "4-8", "9-10"],
        ["stem", "frozen", "frozen", "0.1"],
        ["layer1", "frozen", "frozen", "0.1"],
        ["layer2", "frozen", "frozen", "0.1"],
        ["layer3", "frozen", "0.1", "0.1"],
        ["layer4", "frozen", "0.1", "0.1"],
        ["head", "1", "1", "1"],
    ]


def test_the_table_follows_the_options_given(run_ftkit: Run, tmp_path: Path) -> None:
    flags = ("--epochs", "2", "--backbone", "cifar_resnet20", "--set", "decay=0.5", "--json")
    table = json_of(run_ftkit("strategies", "show", "discriminative", *flags, cwd=tmp_path))["table"]
    assert table["backbone"] == "cifar_resnet20"
    assert [row[table["groups"][-1]] for row in table["epochs"]] == [1.0, 1.0]
    assert [row[table["groups"][-2]] for row in table["epochs"]] == [0.5, 0.5]


def test_a_long_table_is_split(run_ftkit: Run, tmp_path: Path) -> None:
    flags = ("--epochs", "40", "--set", "every=2", "--backbone", "efficientnet_b0")
    lines = lines_of(run_ftkit("strategies", "show", "gradual", *flags, cwd=tmp_path))
    heads = [line.split()[1:] for line in lines if line.startswith("  epochs ")]
    assert heads[0] == ["1-2", "3-4", "5-6", "7-8", "9-10", "11-12", "13-14", "15-16"]
    assert heads[1:] == [["17-18", "19-40"]]


def test_two_strategies_in_one(run_ftkit: Run, tmp_path: Path) -> None:
    sets = ("--set", "first=freeze", "--set", "second.name=full", "--set", "second.backbone_lr_scale=0.2")
    result = run_ftkit("strategies", "show", "then", *sets, "--set", "strategy.at=4", cwd=tmp_path)
    assert fields(lines_of(result), "epochs") == ["epochs", "1-4", "5-10"]
    assert fields(lines_of(result), "stem") == ["stem", "frozen", "0.2"]


def test_a_strategy_that_needs_an_option_is_shown_without_a_table(run_ftkit: Run, tmp_path: Path) -> None:
    lines = lines_of(run_ftkit("strategies", "show", "freezer", cwd=tmp_path))
    assert "  name_starts_with: tuple[str, ...], required" in lines
    assert lines[-1].startswith("no table: strategy.name_starts_with: missing")
    given = lines_of(run_ftkit("strategies", "show", "freezer", "--set", "name_starts_with=[conv1.]", cwd=tmp_path))
    assert fields(given, "conv1.") == ["conv1.", "frozen", "1"]


REFUSED = [
    (("backbones", "show", "resnet81"), "unknown backbone 'resnet81'", "resnet"),
    (("datasets", "show", "digit"), "unknown dataset 'digit'", "digits"),
    (("strategies", "show", "gradul"), "unknown strategy 'gradul'", "gradual"),
    (("strategies", "show", "gradual", "--backbone", "lenett"), "--backbone: unknown backbone 'lenett'", "lenet"),
    (("strategies", "show", "gradual", "--set", "deccay=1"), "--set strategy.deccay: unknown key", "decay"),
    (("strategies", "show", "gradual", "--set", "decay=3"), "strategy.decay is 3.0", "at most 1"),
    (("strategies", "show", "gradual", "--set", "decay"), "--set strategy.decay: not KEY=VALUE", "--set"),
    (("strategies", "show", "full", "--epochs", "0"), "--epochs", "1"),
    (("strategies", "show", "freeze-unfreeze", "--epochs", "3"), "strategy.unfreeze_epoch is 5", "raise epochs"),
]


@pytest.mark.parametrize(("arguments", "message", "remedy"), REFUSED, ids=[message for _, message, _ in REFUSED])
def test_an_invalid_request_exits_with_2_and_a_hint(
    run_ftkit: Run, tmp_path: Path, arguments: tuple[str, ...], message: str, remedy: str
) -> None:
    result = run_ftkit(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert remedy in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_datasets_are_listed_and_shown_with_their_options(run_ftkit: Run, tmp_path: Path) -> None:
    lines = lines_of(run_ftkit("datasets", "list", cwd=tmp_path))
    assert {"digits", "folder", "csv", "cifar10"} <= {line.split()[0] for line in lines if line}
    shown = lines_of(run_ftkit("datasets", "show", "csv", cwd=tmp_path))
    assert "  path: path, required" in shown
    assert "  label_column: str, default label" in shown
    assert "      Column of class names." in shown
    options = json_of(run_ftkit("datasets", "show", "csv", "--json", cwd=tmp_path))["options"]
    assert options[0] | {"doc": ""} == {"name": "path", "type": "path", "required": True, "default": None, "doc": ""}


def test_a_projects_plugin_is_listed_and_a_broken_one_reported(run_ftkit: Run, project: Path) -> None:
    result = run_ftkit("strategies", "list", cwd=project)
    assert result.returncode == 0
    assert fields(result.stdout.splitlines(), "mine/ends") == ["mine/ends", "The stem and the head [both] train."]
    assert "  mine/ends: mine/both-ends" in result.stdout.splitlines()
    assert "mine/broken" not in result.stdout
    warnings = result.stderr.splitlines()
    assert len(warnings) == 2
    assert "'bad'" in warnings[0]
    assert "a_module_that_is_not_there" in warnings[0]
    assert "'mine/broken'" in warnings[1]
    assert "the disc is gone" in warnings[1]


def test_a_plugins_class_is_shown_by_its_docstring(run_ftkit: Run, project: Path) -> None:
    lines = run_ftkit("strategies", "show", "mine/both-ends", cwd=project).stdout.splitlines()
    assert lines[0].startswith("mine/ends, from plugin mine ")
    assert lines[0].endswith("aliases: mine/both-ends")
    assert "      LR scale of the stem, which is the input's end." in lines
    assert "  mode: a | b, default a" in lines
    assert fields(lines, "stem") == ["stem", "0.25"]
    bare = run_ftkit("datasets", "show", "mine/bare", cwd=project).stdout.splitlines()
    assert bare[2:] == [
        "options: `--set dataset.KEY=VALUE`, or beside `name` in ftkit.yaml",
        "  where: str, required",
        "  tags: tuple[str, ...], default []",
        "  limit: int | null, default null",
    ]


def test_a_part_of_a_broken_plugin_gives_the_plugins_error(run_ftkit: Run, project: Path) -> None:
    result = run_ftkit("strategies", "show", "mine/broken", cwd=project)
    assert result.returncode == 2
    assert "the disc is gone" in result.stderr
    result = run_ftkit("strategies", "show", "bad/thing", cwd=project)
    assert result.returncode == 2
    assert "a_module_that_is_not_there" in result.stderr.splitlines()[-1]


COMMANDS = [
    "backbones list",
    "backbones list --json",
    "backbones show resnet18",
    "datasets list",
    "datasets show folder",
    "strategies list",
    "strategies show gradual",
    "optimizers list",
    "curves show step",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_heavy_is_imported(command: str, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom ftkit.cli.main import main\n"
        f"code = main({command.split()!r})\n"
        "heavy = {'torch', 'torchvision', 'accelerate', 'numpy', 'sklearn', 'PIL'} & set(sys.modules)\n"
        "print(code, sorted(heavy), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stderr == "0 []\n"
    assert result.stdout


def test_every_kind_of_part_has_a_command(run_ftkit: Run, tmp_path: Path) -> None:
    hooks = json.loads((Path(__file__).parents[1] / "fixtures" / "api.json").read_text())["hooks"]
    named = {
        hook.removeprefix("ftkit_").replace("_", "-") for hook in hooks if "Mapping" in hooks[hook].split(" -> ")[1]
    }
    kinds = named - {"commands", "models", "templates"}
    panel = run_ftkit("--help", cwd=tmp_path).stdout.partition("─ Parts ")[2].partition("╰")[0]
    assert kinds == set(re.findall(r"^│ ([a-z-]+) ", panel, re.MULTILINE))
    for kind in kinds:
        listed = run_ftkit(kind, "list", "--json", cwd=tmp_path)
        assert (listed.returncode, listed.stderr) == (0, "")
        assert isinstance(json.loads(listed.stdout), list)
        unknown = run_ftkit(kind, "show", "no such name", cwd=tmp_path)
        assert unknown.returncode == 2
        assert "unknown " in unknown.stderr


def test_a_plugins_metric_is_listed_and_shown_with_its_properties(run_ftkit: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METRIC)
    (tmp_path / "ftkit.yaml").write_text("plugins: [mine.py]\n")
    lines = lines_of(run_ftkit("metrics", "list", cwd=tmp_path))
    assert fields(lines, "mine/recall-at") == ["mine/recall-at", "Recall among the k most probable classes."]
    found = json_of(run_ftkit("metrics", "show", "mine/recall-at", "--json", cwd=tmp_path))
    assert (found["properties"]["label"], found["properties"]["lower_is_better"]) == ("recall at k", False)
    assert found["options"] == [{"name": "k", "type": "int", "required": False, "default": 3, "doc": "How many."}]
    shown = lines_of(run_ftkit("metrics", "show", "mine/recall-at", cwd=tmp_path))
    assert "  k: int, default 3" in shown
    assert any(line.startswith("label = recall at k, lower_is_better = false") for line in shown)


def test_listing_backbones_builds_no_network(run_ftkit: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LAZY_BACKBONE)
    (tmp_path / "ftkit.yaml").write_text("plugins: [mine.py]\n")
    (found,) = json_of(run_ftkit("backbones", "list", "mine/", "--json", cwd=tmp_path))
    assert (found["head"], found["groups"]) == (None, None)
    assert "built anyway" in run_ftkit("backbones", "show", "mine/net", "--json", cwd=tmp_path).stderr


METRIC = '''
from dataclasses import dataclass

from ftkit.api import Metric, hookimpl


@dataclass(frozen=True)
class RecallAt(Metric):
    """Recall among the k most probable classes.

    Attributes:
        k: How many.
    """

    k: int = 3
    label = "recall at k"

    def value(self, outputs):
        return 0.0


@hookimpl
def ftkit_metrics():
    return {"recall-at": RecallAt}
'''

LAZY_BACKBONE = """
from ftkit.api import Backbone, LazySequence, Preprocessing, RequestError, hookimpl


def build():
    raise RequestError("built anyway")


@hookimpl
def ftkit_backbones():
    head = groups = LazySequence(build)
    return {"net": Backbone("mine/net", groups, head, build, Preprocessing(size=32))}
"""
