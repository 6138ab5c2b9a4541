"""Sizes of a backbone's layer groups as a row of a JSON table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftkit.api import ROLES, GroupSize, Summary


def summary_of(row: Mapping[str, Any], scale: float = 1.0) -> Summary:
    """The sizes in a row.

    Args:
        scale: Factor of the activations, for images of another size than the row was measured with.
    """
    groups = {
        name: GroupSize(
            {role: sizes[role] for role in ROLES},
            round(sizes["activations"] * scale),
            round(sizes["entering"] * scale),
        )
        for name, sizes in row["groups"].items()
    }
    return Summary(groups, tuple(row["head_inputs"]), row["head_bias"], row["input_weights"])


def row_of(summary: Summary) -> dict[str, Any]:
    """The row of measured sizes."""
    return {
        "head_inputs": list(summary.head_inputs),
        "head_bias": summary.head_bias,
        "input_weights": summary.input_weights,
        "groups": {
            group: {**size.parameters, "activations": size.activations, "entering": size.entering}
            for group, size in summary.groups.items()
        },
    }
