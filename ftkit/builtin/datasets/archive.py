"""Images in a local or remote archive: downloaded once, verified, extracted once, and read as a folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from ftkit.api import (
    Dataset,
    FtkitError,
    RequestError,
    Splits,
    Stamp,
    cache_folder,
    file_stamp,
    hookimpl,
    one_line,
)
from ftkit.builtin.datasets.image_folder import Folder

SCHEMES = ("http", "https")


@dataclass(frozen=True)
class Archive(Dataset):
    """Images in a zip or tar archive, local or at an http(s) URL, laid out as for dataset `folder`.

    The download and the extracted files stay in the cache folder: FTKIT_CACHE_DIR, else $XDG_CACHE_HOME/ftkit, else
    ~/.cache/ftkit. A URL is downloaded once; delete the file to download it again. An outer folder, such as
    hymenoptera_data/, is entered. Archives that extract to more than 20 times their size plus 1 GiB, or whose names or
    links lead outside, are refused.

    Attributes:
        source: Path or URL of the archive.
        sha256: Expected SHA-256 of the archive, 64 hex digits; null accepts any and shows it.
    """

    source: Path | str
    sha256: str | None = None

    def load(self) -> Splits:
        return self._loaded(Folder.load)

    def load_for_evaluation(self) -> Splits:
        return self._loaded(Folder.load_for_evaluation)

    def _loaded(self, load: Callable[[Folder], Splits]) -> Splits:
        wanted = _hex_digits(self.sha256)
        text = os.fspath(self.source)
        cache = cache_folder()
        try:
            archive, found = _downloaded(text, cache, wanted) if _is_url(text) else _local(text, cache)
            if wanted is not None and found.sha256 != wanted:
                again = f"delete {archive} to download it again" if _is_url(text) else "use the right archive"
                raise RequestError(
                    f"{text} has the sha256 {found.sha256}, not {wanted}", f"correct dataset.sha256, or {again}"
                )
            folder = _unpacked(archive, found, cache)
        except OSError as error:
            place = error.filename or cache
            raise FtkitError(
                f"{place}: {error.strerror or error}", f"free disk space in {cache}, or set FTKIT_CACHE_DIR"
            ) from None
        splits = load(Folder(folder))
        note = f"archive {text}: {found.size:,} bytes, sha256 {found.sha256}, extracted to {folder}"
        return replace(splits, notes=(one_line(note), *splits.notes))


def _is_url(text: str) -> bool:
    return "://" in text


def _check_url(url: str) -> None:
    """Require an http(s) URL.

    Raises:
        RequestError: The URL has another scheme, or no host.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise RequestError(f"{url}: not a URL: {error}", "give the path of a file, or an http(s) URL") from None
    if parts.scheme.lower() == "file":
        raise RequestError(f"{url}: file URLs are not supported", f"give the path: {parts.path}")
    if parts.scheme.lower() not in SCHEMES or not parts.netloc:
        raise RequestError(f"{url}: only http and https URLs are supported", "or give the path of a local file")


@dataclass(frozen=True)
class _Sum:
    """The SHA-256 of a file, valid while its stamp doesn't change."""

    sha256: str
    size: int
    stamp: str


def _downloaded(url: str, cache: Path, wanted: str | None) -> tuple[Path, _Sum]:
    """The archive of a URL and its SHA-256; downloads it if it isn't in the cache."""
    _check_url(url)
    folder = cache / "downloads" / _short(url)
    archive = folder / _file_name(url)
    if not archive.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / ".lock") as alone:
            for part in folder.glob(".*.part") if alone else ():
                part.unlink()
            if not archive.is_file():
                _download(url, archive, cache, wanted)
    return archive, _sum_of(archive, cache)


def _download(url: str, archive: Path, cache: Path, wanted: str | None) -> None:
    """Download and extract; a file that can't be extracted is deleted, so that the next attempt downloads it again."""
    # Imported here, since its imports are slow.
    from ftkit.builtin.datasets.download import download

    sha256 = download(url, archive, wanted)
    try:
        _unpacked(archive, _remember(archive, sha256, file_stamp(archive), cache), cache)
    except RequestError as error:
        archive.unlink()
        raise RequestError(error.message.replace(str(archive), url, 1), error.hint) from None


def _local(text: str, cache: Path) -> tuple[Path, _Sum]:
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        raise RequestError(f"no archive {path}", "give the path of a zip or tar archive, or an http(s) URL")
    return path, _sum_of(path, cache)


def _sum_of(archive: Path, cache: Path) -> _Sum:
    """The SHA-256 of a file, from the cache if the file is unchanged."""
    stamp = file_stamp(archive)
    try:
        known = _Sum(**json.loads(_record(archive, cache).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        known = None
    if known is not None and known.stamp == stamp.text():
        return known
    with archive.open("rb") as file:
        return _remember(archive, hashlib.file_digest(file, "sha256").hexdigest(), stamp, cache)


def _remember(archive: Path, sha256: str, stamp: Stamp, cache: Path) -> _Sum:
    found = _Sum(sha256, stamp.size, stamp.text())
    if not stamp.is_settled():
        return found
    record = _record(archive, cache)
    part = record.with_suffix(f".{os.urandom(8).hex()}")
    with contextlib.suppress(OSError):  # It only saves time, and the cache may be read-only.
        record.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(asdict(found)), encoding="utf-8")
        part.replace(record)
    return found


def _record(archive: Path, cache: Path) -> Path:
    return cache / "sums" / f"{_short(str(archive))}.json"


def _unpacked(archive: Path, found: _Sum, cache: Path) -> Path:
    """The folder with the extracted files, which is complete or doesn't exist."""
    sha256 = found.sha256
    folder = cache / sha256
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f".{sha256}.lock") as alone:
        for left in cache.glob(f".{sha256}.*.part") if alone else ():
            shutil.rmtree(left, ignore_errors=True)
        if not folder.is_dir():
            _unpack_into(folder, archive, found)
    return folder


def _unpack_into(folder: Path, archive: Path, found: _Sum) -> None:
    from ftkit.builtin.datasets.unpacking import unpack

    part = folder.with_name(f".{folder.name}.{os.urandom(8).hex()}.part")
    part.mkdir()
    try:
        unpack(archive, part)
        if file_stamp(archive).text() != found.stamp:
            raise FtkitError(f"{archive}: the archive was replaced during extraction", "run this again")
        part.rename(folder)
    except OSError:
        # Without locks, another process may have extracted it already.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """One process at a time; yields whether the file system supports locks. If not, work may be done twice."""
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True


def _file_name(url: str) -> str:
    """The last component of the URL, as a valid file name."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:100] or "archive"


def _hex_digits(sha256: str | None) -> str | None:
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise RequestError(
            f"dataset.sha256: {sha256!r} is not a SHA-256", "give 64 hex digits, as sha256sum prints them"
        )
    return sha256.lower() if sha256 is not None else None


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


@hookimpl
def ftkit_datasets() -> Mapping[str, type[Dataset]]:
    """Archives of images."""
    return {"archive": Archive}
