"""The study of a sweep: a journal file or a database that several processes and machines share, by Optuna."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.errors import FtkitError, RequestError, format_value, one_line
from ftkit.plugins.optional_packages import is_installed

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage

FLAG = "--study"
STUDY_NAME = "ftkit"
"""The study in a file or database; not named by the file, which may be renamed."""
REQUEST = "ftkit_request"
"""The attribute of a study with the request that all its trials have in common."""
STARTUP_TRIALS = 10
"""Trials with random values before TPE chooses them."""


class StudyError(FtkitError):
    """The study can't be read or written. It ends a sweep, unlike the failure of a trial."""


@dataclass(frozen=True)
class OpenStudy:
    """A study that is open.

    Attributes:
        name: The name of the folder with its runs.
        shown: The study in messages, without a password.
    """

    study: Study
    name: str
    shown: str

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors of the storage into a `StudyError`."""
        from optuna.exceptions import OptunaError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (OSError, SQLAlchemyError, OptunaError, json.JSONDecodeError) as error:
            raise StudyError(f"{FLAG} {self.shown}: {_reason(error)}", "run the same command again to resume") from None

    def request(self) -> Mapping[str, Any] | None:
        """The request of the study's trials; None for a study without one."""
        with self.errors():
            found = self.study.user_attrs.get(REQUEST)
        return found if isinstance(found, Mapping) else None


def require_optuna() -> None:
    """Check that Optuna is installed.

    Raises:
        RequestError: It isn't.
    """
    if not is_installed("optuna"):
        raise RequestError("ftkit sweep needs Optuna, which isn't installed", "pip install 'ftkit[sweep]'")


def open_study(place: str, lower_is_better: bool | None = None) -> OpenStudy:
    """Open a study.

    Args:
        place: A file, or the URL of a database.
        lower_is_better: Of the metric; the study is created if it doesn't exist. None to open an existing one only.

    Raises:
        RequestError: It can't be opened, or doesn't exist and isn't to be created.
    """
    require_optuna()
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    name, shown = names_of(place)
    create = lower_is_better is not None
    try:
        storage = _storage(place, create)
        if create:
            direction = "minimize" if lower_is_better else "maximize"
            study = optuna.create_study(
                storage=storage, study_name=STUDY_NAME, direction=direction, load_if_exists=True
            )
        else:
            study = optuna.load_study(storage=storage, study_name=STUDY_NAME)
    except KeyError:
        raise RequestError(
            f"{FLAG} {shown}: it has no study of ftkit sweep", "give the file or database of one"
        ) from None
    except (OSError, ValueError, ImportError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise RequestError(f"{FLAG} {shown} can't be opened: {_reason(error)}", "check the file or URL") from None
    return OpenStudy(study, name, shown)


def names_of(place: str) -> tuple[str, str]:
    """The name of the folder with a study's runs, and how messages call the study: without the password of a URL.

    Raises:
        RequestError: The URL can't be read, or the name isn't a folder's.
    """
    shown, stem = place, Path(place).stem
    if "://" in place:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            url = make_url(place)
        except (ArgumentError, ValueError):
            raise RequestError(f"{FLAG}: the URL can't be read", f"write it like {FLAG} sqlite:///sweep.db") from None
        shown, stem = url.render_as_string(hide_password=True), Path(url.database or "sweep").stem
    if stem in ("", "."):
        raise RequestError(f"{FLAG} {shown} names no file", f"write it like {FLAG} sweep.journal")
    return stem, one_line(shown)


def keep_request(opened: OpenStudy, request: Mapping[str, Any]) -> None:
    """Store the request in a new study; an existing study must have the same.

    Raises:
        RequestError: It has another one; the message names the first difference.
    """
    before = opened.request()
    if before is None:
        with opened.errors():
            if opened.study.get_trials(deepcopy=False):
                raise RequestError(
                    f"{FLAG} {opened.shown}: its trials aren't of ftkit sweep", "give another file or database"
                )
            opened.study.set_user_attr(REQUEST, json.loads(json.dumps(request)))
        return
    difference = _difference(before, json.loads(json.dumps(request)))
    if difference:
        raise RequestError(
            f"{FLAG} {opened.shown} has other trials: {difference}", f"give the study's value, or another {FLAG}"
        )


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    for part, what in (("settings", ""), ("search", "--search ")):
        old, new = before.get(part, {}), now[part]
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return f"its {what}{key} is {_value(old, key)}, that of this command {_value(new, key)}"
    if before.get("monitor") != now["monitor"]:
        return f"its metric is {before.get('monitor')}, that of this command {now['monitor']}"
    return "" if before.get("data") == now["data"] else "its images, labels or classes differ from those given here"


def _value(values: Mapping[str, Any], key: str) -> str:
    return format_value(values[key]) if key in values else "not given"


def _storage(place: str, create: bool) -> BaseStorage:
    """The storage of a study; a file that isn't a journal is left as it is.

    Raises:
        RequestError: The file is missing, or something else.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if "://" in place:
        return RDBStorage(place)
    file = Path(place)
    if file.exists() or not create:
        _require_journal(file)
        _drop_incomplete_line(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(file)))


def _require_journal(file: Path) -> None:
    if not file.is_file():
        what = "is not a file" if file.exists() else "doesn't exist"
        raise RequestError(f"{FLAG} {file} {what}", "give the file of a study, or the URL of a database")
    with file.open("rb") as opened:
        line = opened.readline(100_000)
    if line.startswith(b"SQLite format 3"):
        raise RequestError(f"{FLAG} {file} is an SQLite database", f"give its URL: {FLAG} sqlite:///{file}")
    try:
        is_journal = not line or "op_code" in json.loads(line)
    except (ValueError, TypeError):
        is_journal = False
    if not is_journal:
        raise RequestError(f"{FLAG} {file} isn't a study: it has other content", "give another file")


def _drop_incomplete_line(file: Path) -> None:
    """Remove a last line that a full disk or a power failure has cut off; the next line would be appended to it."""
    from optuna.storages.journal import JournalFileSymlinkLock

    if _ends_with_newline(file) or not os.access(file, os.W_OK):
        return
    lock = JournalFileSymlinkLock(str(file))
    lock.acquire()
    try:
        # Another process may have been writing the line.
        if not _ends_with_newline(file):
            content = file.read_bytes()
            os.truncate(file, content.rfind(b"\n") + 1)
    finally:
        lock.release()


def _ends_with_newline(file: Path) -> bool:
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - 1))
        return opened.read() in (b"", b"\n")


def _reason(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error.__cause__ or error
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.strerror}: {one_line(str(cause.filename))}" if cause.filename else cause.strerror
    return one_line(str(cause).splitlines()[0] if str(cause) else type(cause).__name__)
