"""What stands for the images of a split in the names of what is kept of them."""

from __future__ import annotations

import hashlib

from ftkit.images import sample_file
from ftkit.spec.dataset import Split


def images_digest(split: Split) -> str:
    """Digits that change when an image or the order does.

    By what the data itself tells; else by path, size and time of change; else by pixels. A file that is gone counts by
    its name.
    """
    digest = hashlib.sha256()
    if split.stamp is not None:
        digest.update("\n".join([split.stamp, *split.names]).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()
    for index in range(len(split)):
        file = sample_file(split, index)
        if file is None:
            image = split.open(index)
            digest.update(f"{image.mode} {image.size}\n".encode() + image.tobytes())
            continue
        try:
            found = file.stat()
            stamp = f"{found.st_size} {found.st_mtime_ns}"
        except OSError:
            stamp = "gone"
        digest.update(f"{file.absolute()}\0{stamp}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
