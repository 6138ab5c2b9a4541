"""Bytes that atheris chooses by what they reach in our code: `python -m tests.soak.guided TARGET FOLDER ... CORPUS`.

Whatever is no `FtkitError` that names the file ends it with exit code 77, and the bytes in a file `crash-...`.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Collection
from hashlib import sha256
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ftkit"]):
    from ftkit.errors import FtkitError
    from tests.soak import readers


def named(name: str, use: Callable[[], object], keys: Collection[str] = ()) -> None:
    """It works, or a line names the file, or begins with a key."""
    try:
        use()
    except FtkitError as error:
        if name not in str(error) and re.split(r"\W", str(error))[0] not in keys:
            raise AssertionError(f"not named: {error}") from error


def config(folder: Path, content: bytes) -> None:
    """A config file."""
    file = folder / "fuzzed.yaml"
    file.write_bytes(content)
    named("fuzzed.yaml", lambda: readers.resolve(file, {}, [], {}), readers.SECTIONS)


def card(folder: Path, content: bytes) -> None:
    """The card of a model, under a hash that fits where it has room for one."""
    blank = re.sub(rb'"sha256": "[^"]*"', b'"sha256": "' + b"0" * 64 + b'"', content, count=1)
    (folder / "model.json").write_bytes(blank.replace(b"0" * 64, sha256(blank).hexdigest().encode(), 1))
    named("model.json", lambda: readers.read_card(folder))


def state(folder: Path, content: bytes) -> None:
    """The text of a checkpoint, under hashes that fit."""
    newest = max(path for path in folder.iterdir() if path.is_dir())
    (newest / "state.json").write_bytes(content)
    manifest = json.loads((newest / "MANIFEST.json").read_bytes())
    manifest["state.json"] = {"sha256": sha256(content).hexdigest(), "size": len(content)}
    (newest / "MANIFEST.json").write_bytes(json.dumps(manifest, indent=1).encode())
    named(newest.name, lambda: readers.read_checkpoint(folder))


def record(folder: Path, content: bytes) -> None:
    """What a project remembers of its template."""
    (folder / readers.RECORD).write_bytes(content)
    named(readers.RECORD.name, lambda: readers.read_record(folder))


def base(folder: Path, content: bytes) -> None:
    """The files of a project as its template made them."""
    (folder / readers.BASE).write_bytes(content)
    named(readers.BASE.name, lambda: readers.read_record(folder))


def archive(folder: Path, content: bytes) -> None:
    """An archive of images."""
    target = folder / "inner" / "unpacked"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (folder / "fuzzed-archive").write_bytes(content)
    named("fuzzed-archive", lambda: readers.unpack(folder / "fuzzed-archive", target))
    outside = {path.name for path in (*folder.iterdir(), *target.parent.iterdir())}
    assert outside <= {"inner", "unpacked", "fuzzed-archive"}, outside


TARGETS = {target.__name__: target for target in (config, card, state, record, base, archive)}


if __name__ == "__main__":
    target, work = TARGETS[sys.argv[1]], Path(sys.argv[2])
    atheris.Setup([sys.argv[0], *sys.argv[3:]], lambda content: target(work, content))
    atheris.Fuzz()
