"""What the package promises as a whole: quick imports, no code run from data, everything in the wheel."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from ftkit.plugins import hookspecs

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))
from scripts.count_structure import inside_of_tests  # noqa: E402 - the path is set first

PACKAGE = REPOSITORY / "ftkit"
SOURCES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "torchvision", "numpy", "accelerate", "sklearn", "scipy", "torchmetrics")
MODULES = [
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCES
    if path.name != "__main__.py"
]
MAY_IMPORT_TORCH = (
    "ftkit.activation_cache",
    "ftkit.builtin.backbones.networks",
    "ftkit.cross_fitting",
    "ftkit.data.loading",
    "ftkit.data_quality",
    "ftkit.distributed",
    "ftkit.evaluation",
    "ftkit.experiments.backbone_ranking",
    "ftkit.experiments.extended_model",
    "ftkit.experiments.fine_tuned_curve",
    "ftkit.experiments.learning_curve",
    "ftkit.experiments.power_law",
    "ftkit.experiments.range_test",
    "ftkit.experiments.recommend",
    "ftkit.explanation",
    "ftkit.exporting",
    "ftkit.files.durable",
    "ftkit.files.tensor_files",
    "ftkit.inference",
    "ftkit.metrics",
    "ftkit.models",
    "ftkit.optim.optimizers",
    "ftkit.optim.parameter_roles",
    "ftkit.recipe_search.search_run",
    "ftkit.recipe_search.trial_runs",
    "ftkit.reports",
    "ftkit.runs.checkpoint",
    "ftkit.runs.checkpoint_files",
    "ftkit.tasks",
    "ftkit.training",
    "ftkit.transforms.device_operations",
    "ftkit.transforms.device_transforms",
    "ftkit.transforms.pipeline",
    "ftkit.transforms.views",
    "ftkit.uncertainty",
)
"""Rooms and modules that compute; nothing else imports torch, which keeps `--help`, `plan`, `list` and `runs` fast."""
TORCH_FREE = (
    "ftkit.activation_cache.policy",
    "ftkit.data.loading.lazy_sources",
    "ftkit.data.loading.seeds",
    "ftkit.data.loading.workers",
    "ftkit.distributed.launch_env",
    "ftkit.metrics.finite_outputs",
    "ftkit.metrics.multilabel_outputs",
    "ftkit.metrics.multiclass_outputs",
    "ftkit.metrics.paired_test",
    "ftkit.metrics.rounding",
    "ftkit.metrics.selection",
    "ftkit.models.compute.cuda_driver",
    "ftkit.models.group_patterns",
    "ftkit.models.model_source",
    "ftkit.models.weights.head_classes",
    "ftkit.training.events",
    "ftkit.training.preparation.open_run",
    "ftkit.training.preparation.resume_request",
    "ftkit.uncertainty.calibration",
    "ftkit.uncertainty.reference_outputs",
    "ftkit.uncertainty.set_methods",
)
"""Modules of those rooms that `plan`, `list` and `runs` import, and so are free of torch all the same."""


def computes(module: str) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in MAY_IMPORT_TORCH)


def test_only_the_packages_that_compute_import_torch_or_numpy() -> None:
    light = [module for module in MODULES if not computes(module)] + list(TORCH_FREE)
    code = f"""
import importlib, sys
for name in {light}:
    importlib.import_module(name)
    heavy = [m for m in {HEAVY} if m in sys.modules]
    assert not heavy, f"{{name}} imports {{heavy}}"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "pattern",
    [
        r"weights_only\s*=\s*False",
        r"\bpickle\.(\w*load|Unpickler)",
        r"from\s+pickle\s+import",
        r"^\s*(import|from)\s+(dill|joblib|cloudpickle|shelve|marshal)\b",
        r"yaml\.(unsafe_|full_)?load(_all)?\(",
        r"yaml\.(Unsafe|Full)?Loader\b",
        r"allow_pickle\s*=\s*True",
        r"register_for_checkpointing",
        r"(?<![\w.])(eval|exec)\(",
    ],
)
def test_nothing_that_is_read_can_run_code(pattern: str) -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert found == []


def test_weights_are_restored_with_the_versions_of_modules() -> None:
    # A plain dict of tensors has no versions, without which some networks refuse it: restore_weights adds them.
    others = r"(optimizer|scaler|callbacks|resumed)\.load_state_dict\("
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        text = re.sub(others, "", path.read_text(encoding="utf-8"))
        found |= {path.relative_to(PACKAGE).as_posix()} if ".load_state_dict(" in text else set()
    assert found == {"models/surgery.py", "models/weights/pretrained.py"}


def test_every_torch_load_is_of_weights_only() -> None:
    unsafe = [
        f"{path.relative_to(REPOSITORY)}:{call.lineno}"
        for path in SOURCES
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) == "torch.load"
        and "weights_only=True" not in [ast.unparse(keyword) for keyword in call.keywords]
    ]
    assert unsafe == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the files in a wheel built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        return archive.namelist()


def test_the_wheel_has_every_template(wheel: list[str]) -> None:
    templates = REPOSITORY / "templates"
    ours = {str(path.relative_to(templates)) for path in templates.rglob("*") if path.is_file()}
    assert "project/ftkit.yaml.jinja" in ours
    assert {name.removeprefix("ftkit/templates/") for name in wheel if name.startswith("ftkit/templates/")} == ours


def test_the_wheel_has_the_whole_package_and_nothing_beside_it(wheel: list[str]) -> None:
    ours = {
        str(path.relative_to(REPOSITORY)) for path in PACKAGE.rglob("*") if path.suffix != ".pyc" and path.is_file()
    }
    assert {"ftkit/py.typed", "ftkit/cli/main.py"} <= ours
    assert ours <= set(wheel)
    assert {name.split("/")[0] for name in wheel} == {"ftkit", "ftkit-0.1.0.dist-info"}
    assert "ftkit-0.1.0.dist-info/licenses/LICENSE" in wheel


GUIDE_CHECKS = """
import sys
from pathlib import Path
from ftkit import testing
from ftkit.plugins import Registry
from ftkit.testing import check_backbone

registry = Registry([Path(name).absolute() for name in sys.argv[1:]])
registry.load_all()
assert registry.faults == [], registry.faults
checks = {
    "tasks": testing.check_task,
    "metrics": testing.check_metric,
    "losses": testing.check_loss,
    "optimizers": testing.check_optimizer,
    "curves": testing.check_curve,
    "image_transforms": testing.check_image_transform,
    "batch_transforms": testing.check_batch_transform,
    "callbacks": testing.check_callback,
    "exporters": testing.check_exporter,
}
found = {}
for plural, catalog in registry.catalogs.items():
    names = [name for source in registry.sources() for name in catalog.of(source.owner.name)]
    assert len(names) == 1, (plural, names)
    found[plural] = catalog.get(names[0])
    if plural in checks:
        checks[plural](found[plural]())
check_backbone(found["backbones"], 32)
assert found["models"] == Path("shelf/ants").absolute()
events = [e for source in registry.sources() for e in registry.plugin(source.owner.name).event_hooks]
assert events == ["ftkit_run_start", "ftkit_epoch_end", "ftkit_run_end"]
strategy = found["strategies"](all_at=1)
print([dict(strategy.lr_scales(epoch, 2, ("stem", "head"))) for epoch in range(2)])
print(found["datasets"](root="scans").load().classes)
"""


def test_each_module_of_the_plugin_guide_works(tmp_path: Path) -> None:
    guide = (REPOSITORY / "docs" / "plugins.md").read_text(encoding="utf-8")
    modules = [m for m in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "@hookimpl" in m]
    (tmp_path / "shelf" / "ants").mkdir(parents=True)
    names = [f"guide_{number}.py" for number in range(len(modules))]
    for name, source in zip(names, modules, strict=True):
        here = source.replace("/srv/models", str(tmp_path / "shelf"))
        (tmp_path / name).write_text(here, encoding="utf-8")
    (tmp_path / "scans").mkdir()
    for name in ("oak-1.jpg", "elm-1.jpg", "oak-2.jpg"):
        (tmp_path / "scans" / name).touch()
    command = [sys.executable, "-c", GUIDE_CHECKS, *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[{'head': 1.0}, {'head': 1.0, 'stem': 0.3}]", "('elm', 'oak')"], done.stderr


def test_the_plugin_guide_has_every_hook_with_its_signature() -> None:
    guide = (REPOSITORY / "docs" / "plugins.md").read_text(encoding="utf-8").replace("\\|", "|")
    found = {name: f for name, f in vars(hookspecs).items() if name.startswith("ftkit_")}
    assert len(found) == 18
    for name, function in found.items():
        parameters = [f"{p.name}: {p.annotation}" for p in inspect.signature(function).parameters.values()]
        assert f"| `{name}({', '.join(parameters)})` | 0.1 |" in guide
        assert function.__doc__


def test_the_layout_is_described_in_the_order_of_the_imports() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", text.split("\n## Layout\n")[1].split("\n## ")[0], re.MULTILINE)
    listed = [name.removesuffix(".py").rstrip("/") for row in rows for name in re.findall(r"`(.*?)`", row)]
    contract = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = [layer.replace("ftkit.", "").split(" : ") for layer in contract["contracts"][0]["layers"]]
    assert sorted(listed) == sorted(name for layer in layers for name in layer)
    level = {name: number for number, layer in enumerate(layers) for name in layer}
    assert [level[name] for name in listed] == sorted(level[name] for name in listed)


def test_the_files_to_touch_exist() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("\n## Where to add what\n")[1].split("\n## ")[0]
    paths = re.findall(r"`((?:ftkit|tests|scripts|docs)/[\w./]+)`", section)
    assert len(paths) > 20
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


OUTSIDE_UNIT = {
    "process_checks.py": "what each of several processes computes and owns of a sharded network",
    "contract/test_backbones.py": "sizes in the table of built-in networks are those of the networks",
    "contract/test_bundles.py": "each network comes back from its files bit for bit, before the cast for inference",
    "evaluating.py": "metrics of logits without a model",
    "faults.py": "a disk that fails at one of its operations",
    "gpu/conftest.py": "the steps that a profiler watches",
    "gpu/test_gpu.py": "which kind of table serves the activations",
    "inside.py": "faults, limits and counts that no public interface can set",
    "integration/test_steps_for_gpus.py": "the operations of one step, and a number of GPUs that isn't here",
    "models.py": "parts by name, and model folders without a training",
    "soak/readers.py": "readers that fuzz tests call thousands of times",
    "transformed.py": "the input of a network, as predictions are compared with a direct forward pass",
}
"""Files of the tests outside `unit/` that import the inside of ftkit, each with what no public interface offers."""
SEVERAL_PACKAGES = 20
"""Unit tests that import more than the package that they test."""


def test_tests_import_the_inside_only_where_they_must() -> None:
    imported = inside_of_tests(REPOSITORY)
    assert {name for name in imported if not name.startswith("unit/")} == OUTSIDE_UNIT.keys()
    several = [name for name, packages in imported.items() if name.startswith("unit/") and len(packages) > 1]
    assert len(several) <= SEVERAL_PACKAGES, several


@pytest.mark.parametrize(
    ("line", "packages"),
    [
        ("from ftkit import Listener", set()),
        ("from ftkit.api import Dataset", set()),
        ("from ftkit.cli.main import main", set()),
        ("from ftkit.cli import main", set()),
        ("from ftkit.runs.run_folder import RunFolder", {"runs"}),
        ("from ftkit.testing.checks.loss_checks import check_loss", {"testing"}),
        ("import ftkit.training.train", {"training"}),
        ("patch.setattr('ftkit.data.scan.scan_cache.MOST', 3)", {"data"}),
        ("CODE = 'import sys; from ftkit.runs.run_folder import RunFolder'", {"runs"}),
        ("PLUGIN = 'from ftkit.api import Dataset'", set()),
        ("config = 'ftkit.yaml'", set()),
    ],
)
def test_what_counts_as_the_inside(line: str, packages: set[str], tmp_path: Path) -> None:
    (tmp_path / "ftkit").mkdir()
    for package in ("cli", "data", "runs", "testing", "training"):
        (tmp_path / "ftkit" / package).mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(line)
    assert inside_of_tests(tmp_path) == ({"test_it.py": packages} if packages else {})


def test_the_tests_that_the_docs_name_exist() -> None:
    named = {
        (page.name, path)
        for page in (REPOSITORY / "docs").glob("*.md")
        for path in re.findall(
            r"`(?:tests/)?((?:unit|contract|cli|integration|soak)/\w+\.py(?:::\w+)?)", page.read_text()
        )
    }
    assert len(named) > 20
    missing = [(page, path) for page, path in named if not (REPOSITORY / "tests" / path.partition("::")[0]).is_file()]
    assert missing == []
    tests = [path.partition("::") for _, path in named if "::" in path]
    assert all(f"def {test}(" in (REPOSITORY / "tests" / file).read_text() for file, _, test in tests)


def test_no_page_has_a_heading_or_a_paragraph_twice() -> None:
    pages = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("plugins/*/README.md")]
    assert len(pages) > 20
    for page in pages:
        outside = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        parts = [part for part in outside.split("\n\n") if len(part) > 60 or part.startswith("#")]
        twice = {part for part in parts if parts.count(part) > 1}
        assert not twice, f"{page.name}: {twice}"
