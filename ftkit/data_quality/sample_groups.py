"""The group of each image, such as its patient or camera: a part of its path, or a column of a CSV file."""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ftkit.data_quality.dataset_request import LoadedData, table_column
from ftkit.errors import RequestError


@dataclass(frozen=True)
class SampleGroups:
    """The group of each image.

    Attributes:
        names: Names of the groups.
        numbers: The group of each row, int64 `(n,)`; -1 for an image without one.
    """

    names: tuple[str, ...]
    numbers: NDArray[np.int64]

    @property
    def missing(self) -> int:
        """Number of images without a group."""
        return int((self.numbers < 0).sum())


def sample_groups(data: LoadedData, spec: str, flag: str = "--group") -> SampleGroups:
    """The groups that a flag requests.

    Args:
        spec: `parent` for the folder of each image; a regular expression with one group in parentheses, which is
            searched in the path of each image; otherwise a column of a CSV file.
        flag: For messages.

    Raises:
        RequestError: It is none of these, or no image has a group.
    """
    known: dict[str, int] = {}
    numbers = array("q")
    if spec == "parent":
        names = (str(PurePosixPath(split.names[index]).parent) for _, split, index in data.samples())
        numbers.extend(known.setdefault(name, len(known)) for name in names)
    elif "(" in spec:
        pattern = _compiled(spec, flag)
        for _, split, index in data.samples():
            found = pattern.search(split.names[index])
            value = found[1] if found else None
            numbers.append(known.setdefault(value, len(known)) if value else -1)
    else:
        values = table_column(data, spec, flag)
        for _, split, index in data.samples():
            value = values.get(split.names[index])
            numbers.append(known.setdefault(value, len(known)) if value else -1)
    if not known:
        example = next((split.names[index] for _, split, index in data.samples()), "")
        raise RequestError(f"{flag} {spec}: no image has such a group; a path is {example}", "correct the expression")
    return SampleGroups(tuple(known), np.array(numbers, dtype=np.int64))


def _compiled(spec: str, flag: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(spec)
    except re.error as error:
        raise RequestError(f"{flag} {spec}: {error}", "give a regular expression such as 'patient-([0-9]+)'") from None
    if pattern.groups != 1:
        raise RequestError(
            f"{flag} {spec}: it has {pattern.groups} groups in parentheses",
            "put parentheses around the part of the path that names the group, and (?:...) around others",
        )
    return pattern
