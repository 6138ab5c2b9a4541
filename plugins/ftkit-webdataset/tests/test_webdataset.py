"""Tar shards: written, read here and over HTTP, trained on, and gone on with."""

from __future__ import annotations

import io
import os
import re
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import PIL.Image
import pytest
from ftkit_webdataset.dataset import Shards
from ftkit_webdataset.index import index_of

from ftkit.api import RequestError, UnreadableImage
from ftkit.testing import check_dataset, make_image_folder
from ftkit.testing.project import Project, make_project


class _Ranges(SimpleHTTPRequestHandler):
    """A server that sends parts of files, or, where `whole` is set, doesn't."""

    whole = False

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        pass

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None or self.whole:
            super().do_GET()
            return
        content = Path(self.translate_path(self.path)).read_bytes()[int(wanted[1]) : int(wanted[2]) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving(folder: Path, whole: bool = False) -> Iterator[str]:
    handler = type("Handler", (_Ranges,), {"whole": whole})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layout = {"train": {"ants": 9, "bees": 6}, "val": {"ants": 3, "bees": 3}}
    return make_image_folder(tmp_path_factory.mktemp("images"), layout)


@pytest.fixture(scope="module")
def project(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with shards of these images."""
    made = make_project(tmp_path_factory.mktemp("project"), {})
    done = made.run("webdataset", "write", "shards", "--data", str(images))
    assert done.returncode == 0, done.stderr
    assert "train: 15 images" in done.stdout
    return made


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_what_is_written_is_read_again_to_the_byte(project: Project, images: Path) -> None:
    folder = project.path / "shards"
    data = Shards(str(folder / "train-{000000..000000}.tar"), str(folder / "val-000000.tar"))
    check_dataset(data)
    splits = data.load()
    assert splits.classes == ("ants", "bees")
    assert splits.train is not None
    assert splits.val is not None
    assert (splits.train.labels.count(0), splits.train.labels.count(1), len(splits.val)) == (9, 6, 6)
    with tarfile.open(folder / "train-000000.tar") as archive:
        kept = {archive.extractfile(m).read() for m in archive if not m.name.endswith(".cls")}  # type: ignore[union-attr]
    assert kept == {file.read_bytes() for file in (images / "train").rglob("*.*")}


def test_over_http_the_images_are_the_same(project: Project) -> None:
    folder = project.path / "shards"
    here = Shards(str(folder / "train-000000.tar")).load().train
    assert here is not None
    with serving(folder) as address:
        there = Shards(f"{address}/train-{{000000..000000}}.tar").load()
        assert there.classes == ("ants", "bees"), "from classes.txt beside the shards"
        assert there.train is not None
        for index in range(len(here)):
            assert here[index][0].tobytes() == there.train[index][0].tobytes()


def test_a_server_without_parts_is_reported(project: Project) -> None:
    with serving(project.path / "shards", whole=True) as address:
        train = Shards(f"{address}/train-000000.tar").load().train
        assert train is not None
        with pytest.raises(UnreadableImage, match="range requests"):
            train[0]


@pytest.mark.long
def test_a_run_over_http_with_workers_resumes(project: Project) -> None:
    with serving(project.path / "shards") as address:
        data = ("--set", f"dataset.train={address}/train-000000.tar", "--set", f"dataset.val={address}/val-000000.tar")
        line = ("--dataset", "webdataset/shards", *data, "--backbone", "cifar_resnet20", "--weights", "none")
        options = ("--workers", "2", "--epochs", "1", "--batch-size", "4", "--image-size", "32", "--name", "run", "-q")
        done = project.run("train", *line, *options)
        assert done.returncode == 0, done.stderr
        more = project.run("train", "--resume", "runs/run", "--extend", "1", "-q")
        assert more.returncode == 0, more.stderr


def test_labels_may_be_names(tmp_path: Path, images: Path) -> None:
    picture = (images / "val" / "ants" / "0000.jpg").read_bytes()
    members = {"a/1.jpg": picture, "a/1.cls": b"wasp\n", "a/2.jpg": picture, "a/2.cls": b"hornet", "a/2.json": b"{}"}
    splits = Shards(str(shard(tmp_path / "s.tar", members))).load()
    assert splits.classes == ("hornet", "wasp")
    assert splits.train is not None
    assert (list(splits.train.names), list(splits.train.labels)) == (["s/a/1", "s/a/2"], [1, 0])


def test_a_shard_that_changes_is_read_anew(tmp_path: Path, images: Path) -> None:
    picture = (images / "val" / "ants" / "0000.jpg").read_bytes()
    path = shard(tmp_path / "s.tar", {"1.jpg": picture, "1.cls": b"0"})
    before = Shards(str(path)).load().train
    assert before is not None
    assert len(before) == 1
    shard(path, {"1.jpg": picture, "1.cls": b"0", "2.jpg": picture, "2.cls": b"1"})
    after = Shards(str(path)).load().train
    assert after is not None
    assert len(after) == 2
    assert None is not before.stamp != after.stamp


def test_a_shard_replaced_by_one_of_the_same_size_and_time_is_read_anew(tmp_path: Path) -> None:
    def written(folder: str, labels: str) -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        pictures = [PIL.Image.new("RGB", (8, 8), "red" if label == "0" else "blue") for label in labels]
        members: dict[str, bytes] = {}
        for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            picture.save(content := io.BytesIO(), "BMP")
            members |= {f"{number}.bmp": content.getvalue(), f"{number}.cls": label.encode()}
        path = shard(tmp_path / folder / "s.tar", members)
        os.utime(path, ns=(10**18, 10**18))
        return path

    path = written("one", "01")
    before = Shards(str(path)).load().train
    was = path.stat()
    written("two", "10").replace(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (was.st_size, was.st_mtime_ns)
    after = Shards(str(path)).load().train
    assert before is not None
    assert after is not None
    assert (list(before.labels), list(after.labels)) == ([0, 1], [1, 0])
    assert before.stamp != after.stamp


def test_nothing_is_kept_of_a_shard_whose_server_tells_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))
    path = shard(tmp_path / "s.tar", {"1.jpg": b"x", "1.cls": b"0"})
    assert index_of(str(path), (path.stat().st_size, "")).labels == ["0"]
    shard(path, {"1.jpg": b"x", "1.cls": b"1"})
    assert index_of(str(path), (path.stat().st_size, "")).labels == ["1"]


@pytest.mark.parametrize("hidden", [b"-1", b"", None], ids=["-1", "empty", "no file"])
@pytest.mark.parametrize("names", [b"ants\nbees\n", None], ids=["names", "numbers"])
def test_a_test_split_whose_labels_were_kept_back_is_left_out(
    hidden: bytes | None, names: bytes | None, tmp_path: Path
) -> None:
    train = shard(tmp_path / "train.tar", {"1.jpg": b"x", "1.cls": b"0", "2.jpg": b"x", "2.cls": b"1"})
    held = {"3.jpg": b"x"} if hidden is None else {"3.jpg": b"x", "3.cls": hidden}
    test = shard(tmp_path / "test.tar", held)
    if names:
        (tmp_path / "classes.txt").write_bytes(names)
    splits = Shards(str(train), test=str(test)).load()
    assert splits.classes == (("ants", "bees") if names else ("0", "1"))
    assert splits.train is not None
    assert (list(splits.train.labels), splits.test) == ([0, 1], None)
    (note,) = splits.notes
    assert "the test split is skipped: none of its 1 images has a label" in note


def test_images_whose_label_is_empty_or_minus_one_are_left_out_and_counted(tmp_path: Path) -> None:
    labels = [b"0", b"", b"1", b"-1", b"0"]
    content = {f"{n}.{kind}": text for n, label in enumerate(labels) for kind, text in (("jpg", b"x"), ("cls", label))}
    splits = Shards(str(shard(tmp_path / "s.tar", content))).load()
    assert splits.train is not None
    assert (splits.classes, list(splits.train.labels)) == (("0", "1"), [0, 1, 0])
    assert splits.notes == (
        "the train split: 2 of 5 images have no label and are skipped (1 is missing, 1 is -1): s/1, s/3",
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no tar at all" * 100, "can't be read"),
        ({"1.jpg": b"x"}, "1 has no cls"),
        ({"1.jpg": b"x", "1.cls": b"-1"}, r"dataset\.train: none of 1 samples has a label"),
        (None, "No such file"),
    ],
)
def test_what_can_not_be_used_is_one_line(content: object, says: str, tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        shard(path, content)
    with pytest.raises(RequestError, match=says):
        Shards(str(path)).load()


def test_a_damaged_image_is_unreadable_and_named(tmp_path: Path) -> None:
    train = Shards(str(shard(tmp_path / "s.tar", {"1.jpg": b"no image", "1.cls": b"0"}))).load().train
    assert train is not None
    with pytest.raises(UnreadableImage, match=r"s\.tar, byte 512"):
        train[0]


def test_labels_without_a_readable_image_are_counted(tmp_path: Path, images: Path) -> None:
    picture = next((images / "train" / "ants").iterdir()).read_bytes()
    files = {"a.jpg": picture, "a.cls": b"x", "b.jpg": picture, "b.cls": b"y", "c.nef": b"raw", "c.cls": b"x"}
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    for _ in range(2):  # afresh, and from the index that was kept
        assert Shards(str(tmp_path / "s.tar")).load().notes == (
            "train: 1 sample has no image of a format that is read: c",
        )
