"""Fine-tune image classifiers: from a folder of images to a classifier that can be trusted and shipped.

    import ftkit

    plan = ftkit.plan(dataset={"name": "folder", "root": "photos"}, backbone="resnet18")
    outcome = ftkit.train(plan)
    model = ftkit.load(outcome.run)
    model.predict("ant.jpg")[0].label

Everything is imported when it is first used, so that `import ftkit` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftkit.engine.inference.predict import Prediction, Predictor, load
    from ftkit.engine.training.conclude import Outcome
    from ftkit.engine.training.events import Listener
    from ftkit.errors import FtkitError, RequestError
    from ftkit.library import plan, resume, train
    from ftkit.run_plan import Plan

    __version__: str

__all__ = [
    "FtkitError",
    "Listener",
    "Outcome",
    "Plan",
    "Prediction",
    "Predictor",
    "RequestError",
    "__version__",
    "load",
    "plan",
    "resume",
    "train",
]

_HOMES = {
    "FtkitError": "ftkit.errors",
    "Listener": "ftkit.engine.training.events",
    "Outcome": "ftkit.engine.training.conclude",
    "Plan": "ftkit.run_plan",
    "Prediction": "ftkit.engine.inference.predict",
    "Predictor": "ftkit.engine.inference.predict",
    "RequestError": "ftkit.errors",
    "load": "ftkit.engine.inference.predict",
    "plan": "ftkit.library",
    "resume": "ftkit.library",
    "train": "ftkit.library",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'ftkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ftkit")
    except PackageNotFoundError:
        return "0+source"
