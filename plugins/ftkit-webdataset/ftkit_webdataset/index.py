"""Where each image lies in a tar shard, so that any can be read alone.

That is what splits shards between processes and workers to the image, and lets a run go on in the midst of an epoch:
the order of the images is ftkit's own, as for any other dataset, and no state of a stream has to be kept.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftkit.api import RequestError, cache_folder, is_image, one_line
from ftkit_webdataset.places import stream

LABEL = "cls"
LARGEST_LABEL = 4096
FORMAT = 2


@dataclass(frozen=True)
class Index:
    """The samples of a shard, in its order.

    Attributes:
        keys: Their names in the shard.
        labels: What stands in `KEY.cls`: a number, or a class's name; None where there is no such file.
        offsets, sizes: Of each image in the file, in bytes.
        without: Keys of labels that have no image of a format that ftkit reads.
    """

    keys: list[str]
    labels: list[str | None]
    offsets: list[int]
    sizes: list[int]
    without: list[str]


def index_of(shard: str, stamp: tuple[int, str]) -> Index:
    """The index of a shard: the one kept from the last time, or made by reading the shard once.

    Args:
        stamp: Its size in bytes, and what changes when its content does; where that is empty, nothing is kept.

    Raises:
        RequestError: The shard can't be read.
    """
    size, changed = stamp
    if not changed:
        # Another shard of the same size would be taken for this one.
        return scan(shard)
    sign = hashlib.sha256(f"{FORMAT}\0{shard}\0{size}\0{changed}".encode("utf-8", "surrogatepass")).hexdigest()
    kept = cache_folder() / "webdataset" / f"{sign}.json"
    try:
        return Index(**json.loads(kept.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        made = scan(shard)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_name(f".{kept.name}-{id(made)}")
        fresh.write_text(json.dumps(asdict(made)), encoding="utf-8")
        fresh.replace(kept)
    except OSError:
        pass  # it is made again the next time
    return made


def scan(shard: str) -> Index:
    """Read a shard from end to end for what lies where."""
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
    # The key ends at the first dot of the last part, as everywhere in WebDataset.
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
    """The names in a text file, one a line; none where there is no such file."""
    try:
        with stream(place) as file:
            return [line.strip() for line in file.read().decode("utf-8-sig").splitlines() if line.strip()]
    except (RequestError, OSError, UnicodeDecodeError):
        return []


def beside(shard: str, name: str) -> str:
    """The path or address of a file next to a shard."""
    return f"{shard.rpartition('/')[0]}/{name}" if "/" in shard else str(Path(shard).parent / name)
