"""What ZeRO can't be combined with."""

from __future__ import annotations

from typing import Any

import pytest

import ftkit
from ftkit.errors import RequestError
from ftkit.training.steppers.zero import require_zero
from tests.models import part


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"fsdp": True}, "--fsdp"),
        ({"compile": True}, "--compile"),
        ({"on_nan": "skip"}, "--on-nan skip"),
        ({"precision": "fp16"}, "fp16"),
        ({"optimizer": "adagrad"}, "optimizer adagrad"),
    ],
)
def test_what_zero_cant_do_is_refused(more: dict[str, Any], says: str) -> None:
    config = ftkit.plan().config.model_validate({"backbone": "lenet", "zero_stage": 1, **more})
    chosen = part("optimizers", config.optimizer.name)
    with pytest.raises(RequestError, match=f"--zero-stage 1 can't be combined with {says}"):
        require_zero(config, chosen(), 2, str(config.precision))
