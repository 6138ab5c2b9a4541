"""What tests read of a run under the working folder's `runs/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def records(name: str) -> list[dict[str, Any]]:
    """The records of the epochs, without their times."""
    lines = [json.loads(line) for line in Path("runs", name, "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def weights(name: str) -> bytes:
    """The file of the last epoch's weights."""
    return Path("runs", name, "last", "model.safetensors").read_bytes()
