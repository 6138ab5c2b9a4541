"""The disk space that a run needs, checked before it starts."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit.errors import FtkitError
from ftkit.training.preparation.disk_space import bytes_to_write
from ftkit.training.session import Session
from tests.conftest import MakeFolder
from tests.runs import checkpointed_often


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> dict[str, Any]:
    data = image_folder(tmp_path_factory.mktemp("data"), {"train": {"a": 8, "b": 8}, "val": {"a": 3, "b": 3}})
    return checkpointed_often(data)


Usage = namedtuple("Usage", ["total", "used", "free"])


def test_too_little_space_is_reported_before_training(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ftkit.training.preparation.disk_space.shutil.disk_usage", lambda path: Usage(10**9, 10**9 - 10**6, 10**6)
    )
    with pytest.raises(FtkitError, match=r"the run will write \d MB, and 1 MB are free there"):
        ftkit.train(ftkit.plan(**settings, output=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_says_it_needs_is_what_it_writes(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as the checkpoint that is written goes, which is gone when it ends."""
    expected: list[int] = []

    def note(session: Session) -> int:
        expected.append(bytes_to_write(session))
        return expected[0]

    monkeypatch.setattr("ftkit.training.preparation.disk_space.bytes_to_write", note)
    run = ftkit.train(ftkit.plan(**settings, output=str(tmp_path))).run.path
    written = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    assert 0.5 * expected[0] < written < expected[0]
