"""The task of a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftkit.config.plugin_options import make
from ftkit.errors import RequestError
from ftkit.parts.task import Task
from ftkit.plugins import Registry


def saved_task(saved: Mapping[str, Any], registry: Registry, where: str = "") -> Task:
    """The task that a model's card names, with its options.

    Args:
        saved: `name` and the options beside it.
        where: The file, for messages.

    Raises:
        RequestError: The card names no task, or its plugin isn't installed or takes other options.
    """
    name = saved.get("name")
    if not isinstance(name, str):
        raise RequestError(f"{where}: task has no name", "train or export the model again")
    cls = registry.tasks.get(name, where)
    options = {key: value for key, value in saved.items() if key != "name"}
    try:
        return make(cls, options, "task", {}, registry)
    except RequestError as error:
        raise RequestError(f"{where}: {error.message}", f"install the version that wrote task {name!r}") from None
