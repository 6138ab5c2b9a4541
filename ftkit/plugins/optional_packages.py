"""Which optional packages are there, without importing them."""

from __future__ import annotations

from importlib.util import find_spec


def is_installed(package: str) -> bool:
    """Whether a package can be imported.

    A folder of its name on the path, which Python would import as an empty package, is none: the working folder often
    has one, such as the `wandb` and `mlflow` that these keep their runs in.
    """
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # a parent that isn't there, or something that was put in its place
        return False
    return spec is not None and spec.origin is not None
