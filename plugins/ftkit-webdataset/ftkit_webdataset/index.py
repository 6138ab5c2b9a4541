"""The byte range of each image in a tar shard, so that images can be read in any order.

Single images, rather than whole shards, can thus be distributed to processes and workers, and a run can resume within
an epoch without the state of a stream.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ftkit.api import RequestError, available_cores, cache_folder, is_image, one_line
from ftkit_webdataset.places import ShardStamp, is_address, stream

LABEL = "cls"
LARGEST_LABEL = 4096
FORMAT = 2
LARGE = 100_000_000
"""Bytes of shards whose index is worth starting processes for."""


@dataclass(frozen=True)
class Index:
    """The samples of a shard, in their order in it.

    Attributes:
        keys: Names of the samples.
        labels: Content of `KEY.cls`, a class number or a class name; None where there is no such file.
        offsets, sizes: Byte range of each image.
        without: Keys of labels without an image that ftkit can read.
    """

    keys: list[str]
    labels: list[str | None]
    offsets: list[int]
    sizes: list[int]
    without: list[str]


def index_in_parallel(shards: Sequence[str], stamps: Sequence[ShardStamp]) -> None:
    """Store the indices of large local shards that the cache lacks, with one process per core.

    Reading the headers of a shard is Python code, which threads run one at a time. What a process can't read or store
    is left to `index_of`, which reports the error.

    Args:
        stamps: Of each shard, as for `index_of`.
    """
    missing = [
        (shard, stamp)
        for shard, stamp in zip(shards, stamps, strict=True)
        if stamp[1] and not is_address(shard) and not _cached(shard, stamp).is_file()
    ]
    count = min(available_cores(), len(missing))
    if count < 2 or sum(size for _, (size, _) in missing) < LARGE:
        return
    program = "from ftkit_webdataset.index import index_listed; index_listed()"
    workers = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(count)
    ]
    try:
        for number, worker in enumerate(workers):
            assert worker.stdin is not None, "it is a pipe"
            with suppress(BrokenPipeError), worker.stdin as given:
                json.dump(missing[number::count], given)
        for worker in workers:
            worker.wait()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def index_listed() -> None:
    """Store the indices of the shards on stdin: a JSON list of paths and stamps."""
    for shard, (size, changed) in json.load(sys.stdin):
        with suppress(RequestError):
            index_of(shard, (size, changed))


def _cached(shard: str, stamp: ShardStamp) -> Path:
    """Where the index of a shard is stored."""
    size, changed = stamp
    sign = hashlib.sha256(f"{FORMAT}\0{shard}\0{size}\0{changed}".encode("utf-8", "surrogatepass")).hexdigest()
    return cache_folder() / "webdataset" / f"{sign}.json"


def index_of(shard: str, stamp: ShardStamp) -> Index:
    """The index of a shard, from the cache or by reading the shard once.

    Args:
        stamp: Its size in bytes, and a text that changes with its content; if that is empty, the index isn't cached.

    Raises:
        RequestError: The shard can't be read.
    """
    if not stamp[1]:
        # Another shard of the same size could not be distinguished from this one.
        return scan(shard)
    kept = _cached(shard, stamp)
    try:
        found = Index(**json.loads(kept.read_text(encoding="utf-8")))
        # One text for each class, in place of one for each image.
        return replace(found, labels=[label and sys.intern(label) for label in found.labels])
    except (OSError, ValueError, TypeError):
        made = scan(shard)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_name(f".{kept.name}-{os.getpid()}-{id(made)}")
        fresh.write_text(json.dumps(asdict(made)), encoding="utf-8")
        fresh.replace(kept)
    except OSError:
        pass  # it is created again the next time
    return made


def scan(shard: str) -> Index:
    """Index a shard by reading it from start to end."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, str] = {}
    try:
        with stream(shard) as file, tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                if member.isfile():
                    _note(archive, member, images, labels)
    except (tarfile.TarError, OSError, UnicodeDecodeError) as error:
        raise RequestError(f"dataset: shard {shard} can't be read: {one_line(str(error))}", "copy it again") from None
    places = list(images.values())
    lone = [key for key in labels if key not in images]
    return Index(
        list(images), [labels.get(key) for key in images], [p[0] for p in places], [p[1] for p in places], lone
    )


def _note(archive: tarfile.TarFile, member: Any, images: dict[str, tuple[int, int]], labels: dict[str, str]) -> None:
    # As in WebDataset, the key ends at the first dot of the file name.
    folder, _, base = member.name.rpartition("/")
    stem, _, suffix = base.partition(".")
    key = f"{folder}/{stem}" if folder else stem
    if is_image(f"{stem}.{suffix}"):
        images.setdefault(key, (member.offset_data, member.size))
    elif suffix == LABEL and member.size <= LARGEST_LABEL:
        content = archive.extractfile(member)
        assert content is not None, "it is a file"
        labels[key] = content.read().decode("utf-8-sig").strip()


def class_names(place: str) -> list[str]:
    """The class names in a text file, one per line; empty where there is no such file."""
    try:
        with stream(place) as file:
            return [line.strip() for line in file.read().decode("utf-8-sig").splitlines() if line.strip()]
    except (RequestError, OSError, UnicodeDecodeError):
        return []


def beside(shard: str, name: str) -> str:
    """The path or URL of a file next to a shard."""
    return f"{shard.rpartition('/')[0]}/{name}" if "/" in shard else str(Path(shard).parent / name)
