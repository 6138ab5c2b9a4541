"""The byte range of each image in a tar shard, so that images can be read in any order.

Single images, rather than whole shards, can thus be distributed to processes and workers, and a run can resume within
an epoch without the state of a stream.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ftkit.api import RequestError, cache_folder, is_image, one_line
from ftkit_webdataset.places import stream

LABEL = "cls"
LARGEST_LABEL = 4096
FORMAT = 2


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


def index_of(shard: str, stamp: tuple[int, str]) -> Index:
    """The index of a shard, from the cache or by reading the shard once.

    Args:
        stamp: Its size in bytes, and a text that changes with its content; if that is empty, the index isn't cached.

    Raises:
        RequestError: The shard can't be read.
    """
    size, changed = stamp
    if not changed:
        # Another shard of the same size could not be distinguished from this one.
        return scan(shard)
    sign = hashlib.sha256(f"{FORMAT}\0{shard}\0{size}\0{changed}".encode("utf-8", "surrogatepass")).hexdigest()
    kept = cache_folder() / "webdataset" / f"{sign}.json"
    try:
        found = Index(**json.loads(kept.read_text(encoding="utf-8")))
        # One text for each class, in place of one for each image.
        return replace(found, labels=[label and sys.intern(label) for label in found.labels])
    except (OSError, ValueError, TypeError):
        made = scan(shard)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_name(f".{kept.name}-{id(made)}")
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
