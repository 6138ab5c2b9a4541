"""All plugins of a request, loaded on demand. Built-in plugins use the same hooks as all others."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import ftkit
from ftkit.errors import FtkitError, RequestError
from ftkit.parts.backbone import Backbone
from ftkit.parts.callback import Callback
from ftkit.parts.curve import Curve
from ftkit.parts.dataset import Dataset
from ftkit.parts.exporter import Exporter
from ftkit.parts.loss import Loss
from ftkit.parts.metric import Metric
from ftkit.parts.optimizer import Optimizer
from ftkit.parts.random_transforms import BatchTransform, ImageTransform
from ftkit.parts.strategy import Strategy
from ftkit.parts.task import Task
from ftkit.plugins.catalog import Catalog
from ftkit.plugins.discovery import BUILT_IN, Fault, Owner, Source, installed, is_disabled, is_strict, of_project
from ftkit.plugins.kinds import KINDS
from ftkit.plugins.loading import Offer, Plugin, load, register, run_isolated

T = TypeVar("T")

MODULES = (
    "ftkit.tasks.multiclass",
    "ftkit.tasks.multilabel",
    "ftkit.builtin.backbones.lenet",
    "ftkit.builtin.backbones.cifar_resnet",
    "ftkit.builtin.backbones.efficientnet_lite",
    "ftkit.builtin.backbones.torchvision_models",
    "ftkit.builtin.datasets.digits",
    "ftkit.builtin.datasets.image_folder",
    "ftkit.builtin.datasets.archive",
    "ftkit.builtin.datasets.csv_file",
    "ftkit.builtin.datasets.torchvision_datasets",
    "ftkit.builtin.metrics.accuracy",
    "ftkit.builtin.metrics.calibration_error",
    "ftkit.builtin.metrics.f1",
    "ftkit.builtin.metrics.mean_loss",
    "ftkit.builtin.metrics.ranking",
    "ftkit.builtin.strategies.unfreezing",
    "ftkit.builtin.curves.curves",
    "ftkit.builtin.losses.softmax_losses",
    "ftkit.builtin.losses.sigmoid_losses",
    "ftkit.builtin.optimizers.torch_optimizers",
    "ftkit.builtin.image_transforms.torchvision_transforms",
    "ftkit.builtin.batch_transforms.mixup_and_cutmix",
    "ftkit.builtin.exporters.torch_export",
    "ftkit.builtin.exporters.onnx",
    "ftkit.builtin.callbacks.ema",
    "ftkit.builtin.callbacks.l2_sp",
)


class Registry:
    """The parts of every kind: built in, installed, and of the project's own files.

    Args:
        project_plugins: Absolute paths of the plugin files in the config's `plugins`. They take precedence over
            installed packages of the same name.

    Attributes:
        catalogs: The parts of each kind, by the kind's plural; also as attributes, such as `backbones`.
        faults: Errors of plugins that were loaded.

    Raises:
        RequestError: A plugin file is missing.
        FtkitError: A plugin has a fault, with `--strict-plugins`.
    """

    def __init__(self, project_plugins: Sequence[Path] = ()) -> None:
        self._project_plugins = tuple(project_plugins)
        self.faults: list[Fault] = []
        self.catalogs: dict[str, Catalog[Any]] = {
            plural: Catalog(kind.name, kind.is_valid, self) for plural, kind in KINDS.items()
        }
        self._loaded: dict[str, Plugin | Fault] = {}
        self._sources: dict[str, Source] = {}
        self._duplicates: list[Source] = []
        self._reported = 0
        for plugin in _built_in_plugins():
            self._offer(plugin)
        for path in project_plugins:
            _require_file(path)
        for source in (*of_project(project_plugins), *installed()):
            self._add_source(source)
        # Plugins of the config are always loaded.
        for source in of_project(project_plugins):
            self.load(source.owner.name)
        if is_strict():
            self.load_all()

    @property
    def backbones(self) -> Catalog[Backbone]:
        return self.catalogs["backbones"]

    @property
    def datasets(self) -> Catalog[type[Dataset]]:
        return self.catalogs["datasets"]

    @property
    def strategies(self) -> Catalog[type[Strategy]]:
        return self.catalogs["strategies"]

    @property
    def tasks(self) -> Catalog[type[Task]]:
        return self.catalogs["tasks"]

    @property
    def metrics(self) -> Catalog[type[Metric]]:
        return self.catalogs["metrics"]

    @property
    def losses(self) -> Catalog[type[Loss]]:
        return self.catalogs["losses"]

    @property
    def optimizers(self) -> Catalog[type[Optimizer]]:
        return self.catalogs["optimizers"]

    @property
    def curves(self) -> Catalog[type[Curve]]:
        return self.catalogs["curves"]

    @property
    def image_transforms(self) -> Catalog[type[ImageTransform]]:
        return self.catalogs["image_transforms"]

    @property
    def batch_transforms(self) -> Catalog[type[BatchTransform]]:
        return self.catalogs["batch_transforms"]

    @property
    def callbacks(self) -> Catalog[type[Callback]]:
        return self.catalogs["callbacks"]

    @property
    def exporters(self) -> Catalog[type[Exporter]]:
        return self.catalogs["exporters"]

    @property
    def models(self) -> Catalog[Path]:
        return self.catalogs["models"]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its arguments: another process discovers and loads the plugins again."""
        return Registry, (self._project_plugins,)

    def load(self, plugin: str) -> None:
        """Load a plugin, unless it is unknown, disabled or loaded already."""
        if plugin not in self._sources or plugin in self._loaded or is_disabled(plugin):
            return
        found = self._loaded[plugin] = load(self._sources[plugin], ftkit.__version__)
        if isinstance(found, Fault):
            self._report(found)
        else:
            self._offer(found)

    def load_all(self) -> None:
        """Load every plugin that isn't disabled."""
        for source in self._duplicates:
            self._report(Fault(source.owner.name, f"{source.owner.package} offers another plugin of that name"))
        self._duplicates.clear()
        for name in self._sources:
            self.load(name)

    def call_plugin(self, plugin: str, call: Callable[[], T]) -> T | None:
        """The result of a plugin's code; None if it fails, which makes the plugin unusable."""
        result = run_isolated(plugin, call)
        if not isinstance(result, Fault):
            return result
        self._loaded[plugin] = result
        for catalog in self.catalogs.values():
            catalog.drop(plugin)
        self._report(result)
        return None

    def count_offers(self, plugin: Plugin) -> dict[str, int] | None:
        """The number of names that a plugin lists, by hook; None if listing fails."""
        return self.call_plugin(
            plugin.owner.name, lambda: {hook: len(offer.names()) for hook, offer in plugin.offers.items()}
        )

    def check_offers(self, plugin: Plugin) -> list[str]:
        """Errors of the parts that a plugin lists, one line each.

        Backbones and models in a lazy mapping are skipped, since they may take long to build or download.
        """
        found, catalogs = list[str](), self._by_hook()
        for hook, offer in plugin.offers.items():
            if hook in ("ftkit_backbones", "ftkit_models") and type(offer.items) is not dict:
                continue
            if hook in catalogs:
                faults = [catalogs[hook].fault(name) for name in catalogs[hook].of(plugin.owner.name)]
            else:
                wanted = callable if hook == "ftkit_commands" else _is_folder
                what = "command" if hook == "ftkit_commands" else "template"
                faults = list(self.call_plugin(plugin.owner.name, partial(_invalid_values, what, offer, wanted)) or ())
            found += [fault for fault in faults if fault is not None]
        return found

    def templates(self) -> dict[str, Path]:
        """The template folders of plugins, by `plugin/name`."""
        found = dict[str, Path]()
        for plugin in tuple(self.plugins()):
            offer = plugin.offers.get("ftkit_templates")
            if offer is not None:
                folders = self.call_plugin(plugin.owner.name, partial(_folders, offer)) or {}
                found |= {f"{plugin.owner.name}/{name}": folder for name, folder in folders.items()}
        return found

    def new_faults(self) -> list[Fault]:
        """The faults since the last call."""
        fresh, self._reported = self.faults[self._reported :], len(self.faults)
        return fresh

    def index_problems(self) -> list[str]:
        """Why lists of plugins couldn't be stored, one line each."""
        plugins = [found for found in self._loaded.values() if isinstance(found, Plugin)]
        indexes = [offer.index for plugin in plugins for offer in plugin.offers.values()]
        return [index.problem for index in indexes if index is not None and index.problem is not None]

    def has_plugin(self, plugin: str) -> bool:
        """Whether there is a plugin of that name, even if it is broken or disabled."""
        return plugin in self._sources or plugin == BUILT_IN

    def why_missing(self, plugin: str) -> str | None:
        """Why a plugin has no parts: its fault, or that it is disabled; None if it works or is unknown."""
        if plugin in self._sources and is_disabled(plugin):
            return f"plugin {plugin!r} is disabled, by -p no:{plugin}, --no-plugins or FTKIT_DISABLE_PLUGINS"
        found = self._loaded.get(plugin)
        return str(found) if isinstance(found, Fault) else None

    def sources(self) -> list[Source]:
        """All plugins except the built-in ones, loaded or not."""
        return list(self._sources.values())

    def plugin(self, name: str) -> Plugin | Fault | None:
        """A plugin, loaded if it wasn't; None if it is disabled or unknown."""
        self.load(name)
        return self._loaded.get(name)

    def plugins(self) -> Iterator[Plugin]:
        """Every plugin that works, except the built-in ones."""
        self.load_all()
        for found in self._loaded.values():
            if isinstance(found, Plugin):
                yield found

    def _add_source(self, source: Source) -> None:
        known = self._sources.setdefault(source.owner.name, source)
        # An editable install may be found twice, and a project's file overrides an installed package.
        if known is not source and known.file is None and known.owner.package != source.owner.package:
            self._duplicates.append(source)

    def _report(self, fault: Fault) -> None:
        if is_strict():
            raise FtkitError(str(fault))
        self.faults.append(fault)

    def _offer(self, plugin: Plugin) -> None:
        for hook, catalog in self._by_hook().items():
            if hook in plugin.offers:
                catalog.add(plugin.owner, plugin.offers[hook])

    def _by_hook(self) -> dict[str, Catalog[Any]]:
        return {KINDS[plural].hook: catalog for plural, catalog in self.catalogs.items()}


@cache
def _built_in_plugins() -> tuple[Plugin, ...]:
    """The built-in plugins. All registries of a process share them: their parts don't change."""
    owner = Owner(BUILT_IN, BUILT_IN, ftkit.__version__)
    return tuple(register(owner, importlib.import_module(name)) for name in MODULES)


def _invalid_values(what: str, offer: Offer, wanted: Callable[[Any], bool]) -> list[str]:
    kind = "function" if what == "command" else "folder"
    names = [name for name in offer.names() if not wanted(offer.items[name])]
    return [f"{what} {name!r}: {offer.items[name]!r} is no {kind}" for name in names]


def _is_folder(value: object) -> bool:
    return isinstance(value, str | Path) and Path(value).is_dir()


def _folders(offer: Offer) -> dict[str, Path]:
    return {name: Path(offer.items[name]) for name in offer.names()}


def _require_file(path: Path) -> None:
    if not (path / "__init__.py" if path.is_dir() else path).is_file():
        raise RequestError(f"plugins: no file {path}", "give the path of a Python file, relative to the config file")
