"""A run folder: its paths, lock, records and lists."""

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

SEARCH = "search.json"
"""Name of the file with what a search has tried."""


@dataclass(frozen=True)
class RunFolder:
    """Paths inside `runs/NAME`."""

    path: Path

    def __fspath__(self) -> str:
        """The path, so that the folder can be passed as a path."""
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        """The resolved config, which starts the same run again."""
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def inputs(self) -> Path:
        """Digests of the run's inputs: weights, network, images; and versions."""
        return self.path / "inputs.json"

    @property
    def metrics(self) -> Path:
        """One JSON record per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def averages(self) -> Path:
        """The averages of weights that were evaluated when the run ended; only written where there are any."""
        return self.path / "averages.json"

    @property
    def bad_images(self) -> Path:
        """Image files that are unreadable or wrongly named, with reasons; only written if there are any."""
        return self.path / "bad-images.jsonl"

    @property
    def duplicates(self) -> Path:
        """Images that are in two splits; only written if there are any."""
        return self.path / "duplicates.jsonl"

    @property
    def splits(self) -> Path:
        """Split and class of each image."""
        return self.path / "splits.csv"

    @property
    def packed_splits(self) -> Path:
        """The same, compressed, in place of `splits` for many images."""
        return self.path / "splits.csv.gz"

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The model of the best epoch, or of a better average of several epochs."""
        return self.path / "model"

    @property
    def last(self) -> Path:
        """The model of the last epoch, written when the run ends."""
        return self.path / "last"

    @property
    def folds(self) -> Path:
        """The run folders of a cross-fitted run's folds, `1` and so on."""
        return self.path / "folds"

    @property
    def share_outputs(self) -> Path:
        """The logits for a fold's validation images, at several shares of the way to its last weights."""
        return self.path / "share-outputs.safetensors"

    @property
    def trials(self) -> Path:
        """The run folders of the recipes that a search has tried, which are removed when it ends."""
        return self.path / "trials"

    @property
    def search(self) -> Path:
        """What a search for a recipe has tried, and which one it chose."""
        return self.path / SEARCH

    @property
    def out_of_fold(self) -> Path:
        """Label, prediction, fold and scores of each training image of a cross-fitted run."""
        return self.path / "out-of-fold.csv"

    @property
    def out_of_fold_outputs(self) -> Path:
        """The logits that these scores are computed from."""
        return self.path / "out-of-fold.safetensors"

    @property
    def cross_fitting(self) -> Path:
        """What a cross-fitted run has found; written when it ends."""
        return self.path / "cross-fitting.json"

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended; otherwise it can be resumed."""
        return self.last.is_dir() or self.cross_fitting.is_file()

    @property
    def pruned(self) -> Path:
        """Why a sweep ended the run early; only written then."""
        return self.path / "pruned.json"

    @property
    def first(self) -> Path:
        """The parameters that the run started from; weight drift is measured from them."""
        return self.path / "first"

    @property
    def weight_drift(self) -> Path:
        """Weight drift of each layer at the end."""
        return self.path / "weight_drift.json"

    @property
    def report(self) -> Path:
        """The report as an HTML page."""
        return self.path / "report.html"

    @property
    def trackers(self) -> Path:
        """The epochs sent to trackers, and the run's id in each."""
        return self.path / "trackers.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other process train this run meanwhile; the lock ends with the process.

        Raises:
            RequestError: Another process holds the lock.
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
        # Opening it for appending, as an exclusive lock needs, would fail in a read-only folder.
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
        """Remove the folder of a run that couldn't start; it holds only the config and the plan."""
        shutil.rmtree(self.path)

    def records(self) -> list[dict[str, Any]]:
        """The epochs' records, oldest first; a line truncated by a crash is left out.

        Raises:
            RequestError: A line isn't what ftkit wrote.
        """
        if not self.metrics.exists():
            return []
        lines, found = self.metrics.read_text(encoding="utf-8").split("\n"), []
        for number, line in enumerate(lines[:-1], 1):
            try:
                found.append(json.loads(line))
            except ValueError:
                raise RequestError(
                    f"{self.metrics} line {number} isn't what ftkit wrote", "put the line back, or remove it"
                ) from None
        return found

    def append_record(self, record: Mapping[str, Any]) -> None:
        """Append one epoch's record; it is on disk when this returns."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(dump_json(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewind_records(self, epoch: int) -> None:
        """Remove the records after `epoch`, which a resumed run writes again."""
        kept = [r for r in self.records() if r["epoch"] <= epoch]
        temporary = self.metrics.with_name(".metrics.tmp")
        temporary.write_text("".join(dump_json(r) + "\n" for r in kept), encoding="utf-8")
        temporary.replace(self.metrics)

    def append_list(self, file: Path, items: Iterable[Any]) -> None:
        """Append dataclasses as one JSON object per line; without any, no file is written."""
        lines = [dump_json(asdict(item)) + "\n" for item in items]
        if lines:
            with file.open("a", encoding="utf-8") as opened:
                opened.write("".join(lines))

    def left_out(self) -> frozenset[str]:
        """Image files that the run has left out from its start."""
        if not self.bad_images.exists():
            return frozenset()
        listed = [json.loads(line) for line in self.bad_images.read_text(encoding="utf-8").splitlines()]
        return frozenset(bad["file"] for bad in listed if not (bad["used"] or bad["during_run"]))

    def write_log(self, lines: Iterable[str]) -> None:
        """Append lines, each with the time, to the run's log."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        # A path in it may not be valid text.
        with self.log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(f"{now} {line}\n" for line in lines)


def create_run(output: Path, name: str | None, backbone: str, strategy: str) -> RunFolder:
    """Create a new run folder; an existing one is never written into.

    Args:
        name: The folder's name; None for one of date, backbone and strategy.

    Raises:
        RequestError: The name is taken or invalid.
        FtkitError: The folder can't be created.
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
            raise FtkitError(f"can't create {output / candidate}: {error.strerror}", "give another --output") from None
        return RunFolder(output / candidate)
    raise RequestError(
        f"{output / stem} exists", f"give another --name, or resume it: --resume {shell_word(output / stem)}"
    )


def _plain(name: str) -> str:
    return name.replace("/", "-")
