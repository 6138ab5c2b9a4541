"""Detection of optional packages, without importing them."""

from __future__ import annotations

from importlib.util import find_spec


def is_installed(package: str) -> bool:
    """Whether a package can be imported.

    A folder of that name without Python files doesn't count, although Python would import it: the trackers `wandb` and
    `mlflow` make one in the working folder.
    """
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # a missing parent package, or a replaced module
        return False
    return spec is not None and spec.origin is not None
