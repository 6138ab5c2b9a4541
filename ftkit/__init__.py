"""Fine-tune image classifiers.

    import ftkit

    plan = ftkit.plan(dataset={"name": "folder", "root": "photos"}, backbone="resnet18")
    outcome = ftkit.train(plan)
    model = ftkit.load(outcome.run)
    model.predict("ant.jpg")[0].label

Names are imported when they are first used, so that `import ftkit` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftkit.errors import FtkitError, RequestError
    from ftkit.exporting.model_export import Export
    from ftkit.inference.heat_maps import HeatMap
    from ftkit.inference.predictions import Prediction
    from ftkit.inference.predictor import Predictor, load
    from ftkit.inference.uncertain_predictions import Uncertainty
    from ftkit.library import export, plan, resume, train
    from ftkit.planning.run_plan import Plan
    from ftkit.training.events import EpochDone, Listener, RunStarted, StepDone
    from ftkit.training.train import Outcome

    __version__: str

__all__ = [
    "EpochDone",
    "Export",
    "FtkitError",
    "HeatMap",
    "Listener",
    "Outcome",
    "Plan",
    "Prediction",
    "Predictor",
    "RequestError",
    "RunStarted",
    "StepDone",
    "Uncertainty",
    "__version__",
    "export",
    "load",
    "plan",
    "resume",
    "train",
]

_MODULES = {
    "EpochDone": "ftkit.training.events",
    "Export": "ftkit.exporting.model_export",
    "FtkitError": "ftkit.errors",
    "HeatMap": "ftkit.inference.heat_maps",
    "Listener": "ftkit.training.events",
    "Outcome": "ftkit.training.train",
    "Plan": "ftkit.planning.run_plan",
    "Prediction": "ftkit.inference.predictions",
    "Predictor": "ftkit.inference.predictor",
    "RequestError": "ftkit.errors",
    "RunStarted": "ftkit.training.events",
    "StepDone": "ftkit.training.events",
    "Uncertainty": "ftkit.inference.uncertain_predictions",
    "export": "ftkit.library",
    "load": "ftkit.inference.predictor",
    "plan": "ftkit.library",
    "resume": "ftkit.library",
    "train": "ftkit.library",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _MODULES:
        raise AttributeError(f"module 'ftkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ftkit")
    except PackageNotFoundError:
        return "0+source"
