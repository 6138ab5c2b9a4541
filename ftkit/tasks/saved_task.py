"""The task of a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftkit.errors import RequestError
from ftkit.parts.task import Task
from ftkit.plugins import Registry


def saved_task(saved: Mapping[str, Any], registry: Registry, where: str = "") -> Task:
    """The task that a model's card names, with its options.

    Args:
        saved: `name` and the options beside it.
        where: The file, for messages.

    Raises:
        RequestError: Its plugin isn't installed, or takes other options.
    """
    cls = registry.tasks.get(str(saved["name"]), where)
    options = {key: value for key, value in saved.items() if key != "name"}
    try:
        return cls(**options)
    except TypeError as error:
        raise RequestError(f"{where}: task {saved['name']!r}: {error}", "install the version of then") from error
