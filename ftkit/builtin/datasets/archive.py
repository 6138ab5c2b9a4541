"""Images in an archive, here or at an address: fetched once, checked, unpacked once, read as a folder."""

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
    """Images in a zip or tar archive, of a path or an http(s) address, laid out as for dataset `folder`.

    What is fetched stays in the cache folder, as does what is unpacked: FTKIT_CACHE_DIR, else
    $XDG_CACHE_HOME/ftkit, else ~/.cache/ftkit. An address is asked once; delete the file to fetch it anew.
    Folders around the images, such as hymenoptera_data/, are entered. An archive that unpacks to more than
    20 times its size and 1 GiB is refused, and so is one whose names or links lead out of it.

    Attributes:
        source: Path of the archive, or its address.
        sha256: The sum that the archive must have, 64 hex digits; null takes any, and shows it.
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
            archive, found = _fetched(text, cache, wanted) if _is_address(text) else _local(text, cache)
            if wanted is not None and found.sha256 != wanted:
                again = f"delete {archive} to fetch it again" if _is_address(text) else "take the right archive"
                raise RequestError(
                    f"{text} has the sha256 {found.sha256}, not {wanted}", f"correct dataset.sha256, or {again}"
                )
            folder = _unpacked(archive, found, cache)
        except OSError as error:
            place = error.filename or cache
            raise FtkitError(
                f"{place}: {error.strerror or error}", f"the cache is {cache}: make room, or set FTKIT_CACHE_DIR"
            ) from None
        splits = load(Folder(folder))
        note = f"archive {text}: {found.size:,} bytes, sha256 {found.sha256}, unpacked in {folder}"
        return replace(splits, notes=(one_line(note), *splits.notes))


def _is_address(text: str) -> bool:
    """Whether it is an address, and not the path of a file."""
    return "://" in text


def _check_address(url: str) -> None:
    """Refuse what isn't fetched: other schemes, and names of nothing.

    Raises:
        RequestError: The address is of no server, or not http or https.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise RequestError(
            f"{url}: not an address: {error}", "give the path of a file, or an http(s) address"
        ) from None
    if parts.scheme.lower() == "file":
        raise RequestError(f"{url}: file addresses aren't fetched", f"give the path itself: {parts.path}")
    if parts.scheme.lower() not in SCHEMES or not parts.netloc:
        raise RequestError(f"{url}: only http and https addresses are fetched", "or give the path of a file here")


@dataclass(frozen=True)
class _Sum:
    """What a file was when its sum was taken; while its stamp is the same, the sum is taken to be."""

    sha256: str
    size: int
    stamp: str


def _fetched(url: str, cache: Path, wanted: str | None) -> tuple[Path, _Sum]:
    """The archive of an address, and its sum; asks the server only where the file isn't there."""
    _check_address(url)
    folder = cache / "downloads" / _short(url)
    archive = folder / _file_name(url)
    if not archive.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / ".lock") as alone:
            for part in folder.glob(".*.part") if alone else ():
                part.unlink()
            if not archive.is_file():
                _fetch_good(url, archive, cache, wanted)
    return archive, _sum_of(archive, cache)


def _fetch_good(url: str, archive: Path, cache: Path, wanted: str | None) -> None:
    """Fetch and unpack; a file that can't be unpacked isn't kept, so that the next try fetches it again."""
    # What it imports would slow every start of the program down.
    from ftkit.builtin.datasets.download import fetch

    sha256 = fetch(url, archive, wanted)
    try:
        _unpacked(archive, _remember(archive, sha256, file_stamp(archive), cache), cache)
    except RequestError as error:
        archive.unlink()
        raise RequestError(error.message.replace(str(archive), url, 1), error.hint) from None


def _local(text: str, cache: Path) -> tuple[Path, _Sum]:
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        raise RequestError(f"no archive {path}", "give the path of a zip or tar archive, or an http(s) address")
    return path, _sum_of(path, cache)


def _sum_of(archive: Path, cache: Path) -> _Sum:
    """The file's sum: the one that was remembered while the file stays as it was, else a new one."""
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
    with contextlib.suppress(OSError):  # It only saves time, and a cache may be there to be read alone.
        record.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(asdict(found)), encoding="utf-8")
        part.replace(record)
    return found


def _record(archive: Path, cache: Path) -> Path:
    return cache / "sums" / f"{_short(str(archive))}.json"


def _unpacked(archive: Path, found: _Sum, cache: Path) -> Path:
    """The folder with the archive's content, which is there whole or not at all."""
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
            raise FtkitError(f"{archive}: it was replaced while it was unpacked", "run this again")
        part.rename(folder)
    except OSError:
        # Where locks don't work, another process may have been quicker, to the same end.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """One process at a time; others wait, and find the work done. Says whether the file system can lock.

    Where it can't, the work may be done twice, to the same end.
    """
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True


def _file_name(url: str) -> str:
    """The last part of the address, as a name that a file can have."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:100] or "archive"


def _hex_digits(sha256: str | None) -> str | None:
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise RequestError(f"dataset.sha256: {sha256!r} is no sha256", "give 64 hex digits, as sha256sum prints them")
    return sha256.lower() if sha256 is not None else None


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


@hookimpl
def ftkit_datasets() -> Mapping[str, type[Dataset]]:
    """Archives of images."""
    return {"archive": Archive}
