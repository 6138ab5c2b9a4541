"""The folder that a run leaves behind, and the records in it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ftkit.errors import FtkitError, RequestError, shell_word
from ftkit.files.json_text import dump_json


@dataclass(frozen=True)
class RunFolder:
    """Paths inside `runs/NAME`."""

    path: Path

    def __fspath__(self) -> str:
        """It is taken where a path is."""
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        """The resolved config; it starts the same run again."""
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def inputs(self) -> Path:
        """What the run was made of, by content: weights, network, images, versions."""
        return self.path / "inputs.json"

    @property
    def metrics(self) -> Path:
        """One JSON record an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def bad_images(self) -> Path:
        """The image files that can't be read or are named wrongly, with reasons; there where there are any."""
        return self.path / "bad-images.jsonl"

    @property
    def duplicates(self) -> Path:
        """Pictures that are in two splits; there where there are any."""
        return self.path / "duplicates.jsonl"

    @property
    def splits(self) -> Path:
        """Which image is in which split, with its class: what was trained on, and what was held out."""
        return self.path / "splits.csv"

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The bundle of the best epoch."""
        return self.path / "model"

    @property
    def last(self) -> Path:
        """The bundle of the last epoch, written when the run ends."""
        return self.path / "last"

    @property
    def first(self) -> Path:
        """The weights that the run started from, to measure from."""
        return self.path / "first"

    @property
    def weight_drift(self) -> Path:
        """How far each layer is from them at the end."""
        return self.path / "weight_drift.json"

    @property
    def trackers(self) -> Path:
        """What was sent to trackers, and to which run of theirs."""
        return self.path / "trackers.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other process train this run meanwhile; the claim ends with the process, however that ends.

        Raises:
            RequestError: Another process has claimed it.
        """
        with self._lock.open("a") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RequestError(f"{self.path}: another process trains this run", "wait for it, or stop it") from None
            yield

    def is_locked(self) -> bool:
        """Whether a process other than this one trains the run."""
        if not self._lock.exists():
            return False
        # Opening it for appending, as an exclusive lock wants it, would fail in a folder that is only to be read.
        with self._lock.open() as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @property
    def _lock(self) -> Path:
        return self.path / ".lock"

    def discard(self) -> None:
        """Remove the folder of a run that couldn't start: it holds nothing but what was asked for."""
        shutil.rmtree(self.path)

    def records(self) -> list[dict[str, Any]]:
        """The epochs' records, oldest first; a line cut short by a crash is left out."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def append_record(self, record: Mapping[str, Any]) -> None:
        """Add one epoch's record, on disk when this returns."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(dump_json(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewind_records(self, epoch: int) -> None:
        """Drop the records after `epoch`, which a resumed run will write again."""
        kept = [r for r in self.records() if r["epoch"] <= epoch]
        temporary = self.metrics.with_name(".metrics.tmp")
        temporary.write_text("".join(dump_json(r) + "\n" for r in kept), encoding="utf-8")
        temporary.replace(self.metrics)

    def append_list(self, file: Path, items: Iterable[Any]) -> None:
        """Write dataclasses as one JSON object a line; where there are none, there is no file."""
        lines = [dump_json(asdict(item)) + "\n" for item in items]
        if lines:
            with file.open("a", encoding="utf-8") as opened:
                opened.write("".join(lines))

    def left_out(self) -> frozenset[str]:
        """The image files that the run has left out from its start."""
        if not self.bad_images.exists():
            return frozenset()
        listed = [json.loads(line) for line in self.bad_images.read_text(encoding="utf-8").splitlines()]
        return frozenset(bad["file"] for bad in listed if not (bad["used"] or bad["during_run"]))

    def write_log(self, lines: Iterable[str]) -> None:
        """Add lines, each with the time, to the run's log."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        # A path in it may be no text.
        with self.log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(f"{now} {line}\n" for line in lines)


def create_run(output: Path, name: str | None, backbone: str, strategy: str) -> RunFolder:
    """Make a new run folder; one that exists is never written into.

    Args:
        name: The folder's name, or None for one made of date, backbone and strategy.

    Raises:
        RequestError: The name is taken or is no name.
        FtkitError: The folder can't be made.
    """
    if name is not None and (not name.strip() or name != Path(name).name):
        raise RequestError(
            f"--name {name!r} is not a folder's name", "give one without slashes; --output is for the path"
        )
    try:
        os.fspath(output / (name or "")).encode()
    except UnicodeEncodeError:
        raise RequestError(
            f"{output / (name or '')}: the name is not UTF-8 text, which files of weights need",
            "give another --output and --name",
        ) from None
    stem = name or "-".join([f"{datetime.now():%Y%m%d-%H%M%S}", _plain(backbone), _plain(strategy)])
    candidates = [stem] if name else [stem, *(f"{stem}-{n}" for n in range(2, 100))]
    for candidate in candidates:
        try:
            (output / candidate).mkdir(parents=True)
        except FileExistsError:
            continue
        except NotADirectoryError:
            raise RequestError(f"--output {output} is not a folder", "give another one") from None
        except OSError as error:
            raise FtkitError(f"can't make {output / candidate}: {error.strerror}", "give another --output") from None
        return RunFolder(output / candidate)
    raise RequestError(
        f"{output / stem} exists", f"give another --name, or go on with it: --resume {shell_word(output / stem)}"
    )


def _plain(name: str) -> str:
    return name.replace("/", "-")
