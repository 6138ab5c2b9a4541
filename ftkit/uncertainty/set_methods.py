"""Names of the ways to make prediction sets, without imports, so that help and completion are fast."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

SetMethod: TypeAlias = Literal["lac", "aps", "raps"]
METHODS: tuple[SetMethod, ...] = get_args(SetMethod)
