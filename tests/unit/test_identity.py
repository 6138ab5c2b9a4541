"""The identity of a network: of its code and attributes, in every process the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ftkit.models.identity import network_identity
from ftkit.models.source_digest import imports


class Odd(torch.nn.Module):
    """Attributes of all kinds."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        for name, value in attributes.items():
            setattr(self, name, value)


def double(x: float) -> float:
    return 2 * x


def triple(x: float) -> float:
    return 3 * x


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (4, 8),
        (0.1, 0.2),
        ("mean", "max"),
        ((1, 2), (2, 1)),
        ({"a", "b"}, {"a", "c"}),
        ({"a": [1]}, {"a": [2]}),
        (double, triple),
        (lambda x: x, lambda x: x + 1),
        (torch.ones(2), torch.zeros(2)),
        ([torch.nn.Linear(2, 2)], [torch.nn.Linear(2, 3)]),
        (torch.float32, torch.bfloat16),
    ],
    ids=["int", "float", "str", "tuple", "set", "dict", "function", "lambda", "tensor", "modules", "dtype"],
)
def test_every_plain_attribute_counts(one: Any, other: Any) -> None:
    assert network_identity(Odd(value=one)) == network_identity(Odd(value=one))
    assert network_identity(Odd(value=one)) != network_identity(Odd(value=other))


def test_hooks_count_and_weights_that_are_saved_do_not() -> None:
    plain, hooked = Odd(), Odd()
    assert network_identity(plain) == network_identity(Odd())
    hooked.linear.register_forward_hook(lambda module, inputs, output: output + 1)
    assert network_identity(plain) != network_identity(hooked)


def test_the_imports_of_long_code_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_part.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    lines = [f"a{number} = {number}.5" for number in range(300)] + ["from own_part import x"]
    assert "own_part" in list(imports(compile("\n".join(lines), "long.py", "exec"), ""))


@pytest.mark.long
def test_the_identity_is_the_same_in_every_process() -> None:
    code = (
        "import torch, torchvision; from ftkit.models.identity import network_identity as i;"
        "print(i(torchvision.models.swin_t()), i(torch.nn.TransformerEncoderLayer(32, 4, 32)))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join([".", *filter(None, sys.path)])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
