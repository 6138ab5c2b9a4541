"""JSON text without numbers that JSON doesn't have."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from ftkit.files.json_text import dump_json


def strict(text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_has_no_number_that_is_none() -> None:
    value = {"a": math.nan, "b": [math.inf, (-math.inf, 1.5)], "c": {"d": math.nan}, 2: True}
    assert strict(dump_json(value)) == {"a": None, "b": [None, [None, 1.5]], "c": {"d": None}, "2": True}
