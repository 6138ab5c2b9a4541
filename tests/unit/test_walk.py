"""One walk for training and prediction: the same files, and all else counted with its reason."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from ftkit.api import SkippedFiles, walk_images
from ftkit.cli.image_paths import find_images, read_path_list
from ftkit.data.images import IMAGE_SUFFIXES
from ftkit.data.walk import OTHER_IMAGES
from ftkit.errors import RequestError
from ftkit.files.file_kinds import kind_of_bytes
from tests.conftest import typed
from tests.models import part, save_model

Folder = part("datasets", "folder")


def dot(path: Path, form: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path, form)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model", "ab")


@pytest.fixture
def nasty(tmp_path: Path) -> Path:
    """Two classes, and whatever else lies about in folders of images."""
    root = tmp_path / "data"
    for name in ("a/1.png", "a/deep/er/2.PNG", "b/3.jpg", "b/folder.jpg/4.png", "b/line\nbreak.png"):
        dot(root / name)
    for name in ("elsewhere/5.png", "elsewhere/in/6.png"):
        dot(tmp_path / name)
    dot(root / "a" / os.fsdecode(b"\xff.png"))
    (root / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "linked again").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    (tmp_path / "elsewhere" / "back").symlink_to(root / "a")
    (root / "a" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "b" / "link.png").symlink_to(root / "a" / "1.png")
    os.mkfifo(root / "b" / "pipe.png")
    for name in ("a/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "b/__MACOSX/._3.jpg", "b/.thumbnails/3.jpg", "a/.hidden.png"):
        dot(root / name, "png")
    for name in ("a/raw.CR2", "a/drawing.svg", "b/layers.psd"):
        (root / name).write_bytes(b"x")
    for name in ("a/Thumbs.db", "b/notes.txt", "b/labels.json"):
        (root / name).write_bytes(b"x")
    dot(root / "b" / "IMG_0001", "jpeg")
    dot(root / "b" / "7.jpg.part", "jpeg")
    return root


TAKEN = [
    "a/1.png", "a/\udcff.png", "a/deep/er/2.PNG", "a/linked/5.png", "a/linked/in/6.png", "b/3.jpg",
    "b/folder.jpg/4.png", "b/line\nbreak.png", "b/link.png",
]  # fmt: skip
SAID = (
    "3 images are of formats that ftkit doesn't read (.svg, .cr2, .psd)",
    "2 files are images by their content, but not by their names (a JPEG image)",
    "2 links are broken",
    "hidden or system files and folders are skipped",
    "2 files are not images",
)


def test_training_and_prediction_take_the_same_files_of_a_nasty_tree(
    nasty: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = Folder(nasty).load()
    assert splits.train is not None
    assert sorted(splits.train.names) == sorted(TAKEN)
    printed = "; ".join(splits.notes)
    for words in SAID:
        assert words in printed
    monkeypatch.chdir(tmp_path)
    done = typed("predict", "data", "--model", str(model), "--to", "o.jsonl", cwd=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert sorted(line["file"] for line in lines) == sorted(f"data/{name}" for name in TAKEN)
    assert all(line["error"] is None for line in lines)
    assert done.returncode == 1, "what a person meant was left out"
    messages = [line for line in done.stderr.splitlines() if line.startswith("skipped: ")]
    assert len(messages) == 1
    for words in SAID:
        assert words in messages[0]


def test_what_nobody_means_changes_no_exit_code(model: Path, tmp_path: Path) -> None:
    for name in ("d/1.png", "d/@eaDir/1.png", "d/.thumbs/1.png"):
        dot(tmp_path / name)
    (tmp_path / "d" / "notes.txt").write_text("x")
    done = typed("predict", "d", "--model", str(model), cwd=tmp_path)
    assert done.returncode == 0
    assert "skipped: 2 hidden or system files and folders are skipped: d/.thumbs, d/@eaDir; 1 file is" in done.stderr


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one inside that can't be opened, for root as well."""
    root = tmp_path / "data"
    for name in ("a/1.png", "a/locked/2.png", "b/3.png"):
        dot(root / name)
    really = os.scandir

    def scandir(path: str | Path = ".") -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return root


def test_a_folder_that_cant_be_opened(locked: Path, model: Path, tmp_path: Path) -> None:
    for place, names in (
        ("data", ["data/a/1.png", "data/b/3.png"]),
        ("data/**/*.png", ["data/a/1.png", "data/b/3.png"]),
    ):
        done = typed("predict", place, "--model", str(model), "--json", cwd=tmp_path)
        assert [json.loads(line)["file"] for line in done.stdout.splitlines()] == names
        assert "skipped: 1 folder can't be opened (Permission denied): data/a/locked" in done.stderr
        assert done.returncode == 1
    with pytest.raises(RequestError, match=r"a/locked: can't be listed: Permission denied \(make it readable"):
        Folder(locked).load()
    done = typed("predict", "data/a/locked", "--model", str(model), cwd=tmp_path)
    assert done.returncode == 2
    assert "no images in data/a/locked: 1 folder can't be opened" in done.stderr


def test_every_ending_that_pil_knows_as_an_image_is_one_here_too() -> None:
    Image.init()
    not_pictures = {".bufr", ".flc", ".grib", ".hdf", ".iim", ".im", ".mpeg", ".mpg", ".palm", ".ps", ".h5", ".pdf"}
    known = IMAGE_SUFFIXES | OTHER_IMAGES | not_pictures
    assert {suffix for suffix in Image.registered_extensions() if suffix not in known} == set()


def test_a_folder_of_what_cant_be_read_is_reported(model: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for number in range(5):
        (tmp_path / "raw" / f"{number}.nef").touch()
    done = typed("predict", "raw", "--model", str(model), cwd=tmp_path)
    assert done.returncode == 2
    assert "5 images are of formats that ftkit doesn't read (.nef): raw/0.nef, raw/1.nef, raw/2.nef, ..." in done.stderr
    with pytest.raises(RequestError, match=r"no images; skipped: .*\(\.nef\)"):
        Folder(tmp_path).load()


def taken(pattern: str) -> list[str]:
    return [str(path) for path in find_images([pattern], None, SkippedFiles())]


def test_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("p/1.png", "p/a/2.jpg", "p/a/b/3.png", "p/@eaDir/4.png", "p/.h/5.png", "p/[x].png", "q/6.png"):
        dot(Path(name))
    Path("p/a/loop").symlink_to(tmp_path / "p")
    Path("p/notes.txt").touch()
    assert taken("**/*.png") == ["p/1.png", "p/[x].png", "p/a/b/3.png", "q/6.png"]
    assert taken("p/**/*.png") == taken("./p/**/*.png") == ["p/1.png", "p/[x].png", "p/a/b/3.png"]
    assert taken("p/*") == ["p/1.png", "p/[x].png", "p/a/2.jpg", "p/a/b/3.png", "p/notes.txt"]
    assert taken("p/**/*") == ["p/1.png", "p/[x].png", "p/a/2.jpg", "p/a/b/3.png", "p/notes.txt"], "none is there twice"
    assert taken("?/*/*.jpg") == ["p/a/2.jpg"]
    assert taken("p/*/") == ["p/a/2.jpg", "p/a/b/3.png"]
    assert taken("p/[x].png") == ["p/[x].png"]
    assert taken("p/[[]x].png") == ["p/[x].png"]
    assert taken(f"{tmp_path}/q/*") == [f"{tmp_path}/q/6.png"]
    assert taken("p/.h/*") == ["p/.h/5.png"]
    assert taken("q/**") == ["q/6.png"]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"a.png\nb c.png\n", ["a.png", "b c.png"]),
        (b"a.png\r\n\r\nb.png", ["a.png", "b.png"]),
        (b"\xef\xbb\xbfa.png\n", ["a.png"]),
        (b"\xff.png\ncaf\xe9.png\n", ["\udcff.png", "caf\udce9.png"]),
        (b"\xff\xfe" + "é.png\r\n日本.png\r\n".encode("utf-16-le"), ["é.png", "日本.png"]),
        (b"\xfe\xff" + "é.png\r\nb.png".encode("utf-16-be"), ["é.png", "b.png"]),
        ("a.png\r\nb.png\r\n".encode("utf-16-le"), ["a.png", "b.png"]),
        (b"a.png\0line\nbreak.png\0\xff.png\0", ["a.png", "line\nbreak.png", "\udcff.png"]),
        (b"one.png", ["one.png"]),
        ("\u010a.png\n\u0a0a.png\n".encode("utf-16"), ["\u010a.png", "\u0a0a.png"]),
        (b"", []),
    ],
)
def test_lists_on_stdin_in_any_encoding(content: bytes, names: list[str]) -> None:
    assert list(read_path_list(SimpleNamespace(buffer=io.BytesIO(content)))) == names  # type: ignore[arg-type]
    left = io.BytesIO(content)
    slow = SimpleNamespace(read=lambda _: left.read(1))
    assert list(read_path_list(SimpleNamespace(buffer=slow))) == names  # type: ignore[arg-type]


def test_a_name_on_stdin_that_is_no_text_is_predicted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dot(tmp_path / os.fsdecode(b"\xff.png"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff.png\n"), encoding="utf-8"))
    done = typed("predict", "-", "--model", str(model), "--to", "o.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "o.jsonl").read_text())["file"] == "\udcff.png"


def test_no_stdin_is_reported(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    done = typed("predict", "-", "--model", str(model), cwd=tmp_path)
    assert (done.returncode, "stdin is closed" in done.stderr) == (2, True)


def test_a_walk_counts_and_stays_small(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}.txt").touch()
        (tmp_path / f"{number}.jpg").touch()
    left = SkippedFiles()
    assert len(list(walk_images(tmp_path, "", left))) == 50
    assert list(left.lines()) == ["50 files are not images: 0.txt, 1.txt, 10.txt, ..."]
    assert left.suspicious == 0


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"PK\x03\x04" + b"\0" * 22 + b"\x13\0\0\0[Content_Types].xml", "an Excel workbook"),
        (b"PK\x03\x04" + b"\0" * 22 + b"\x05\0\0\0a.jpg", "a zip archive"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"\n <html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"BMW,label\n", None),
        (b"path,label\n", None),
        (b'{"a": 1}', "a JSON file"),
        ("path,label\n".encode("utf-16"), "text in UTF-16"),
        (b"", None),
    ],
)
def test_kinds_by_content(head: bytes, kind: str | None) -> None:
    assert kind_of_bytes(head) == kind
