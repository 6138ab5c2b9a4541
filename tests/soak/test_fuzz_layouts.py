"""Whatever folders, names and lists there are: training and prediction see the same files, and all else is told."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ftkit.api import SkippedFiles, walk_images
from ftkit.errors import RequestError
from tests.models import part
from tests.soak import times
from tests.soak.readers import found_images, listed_paths, resolve, to_yaml

pytestmark = pytest.mark.soak

CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
PICTURE = io.BytesIO()
Image.new("RGB", (2, 2), "red").save(PICTURE, "png")

PARTS = st.sampled_from(
    ["train", "training_set", "test", "Test_Set", "val", "valid", "seg_train", "seg_test", "images", "labels", "data",
     "cat", "dog", "1", "01", "@eaDir", "__MACOSX", ".h", "x y", "\u00e9", "e\u0301", "\udcff", "[a]", "line\nbreak"]
)  # fmt: skip
FILES = st.sampled_from(
    ["1.png", "2.PNG", "cat.1.jpg", "\udcff.png", "raw.NEF", "a.svg", "n.txt", "Thumbs.db", ".x.png", "none", "[1].png"]
)
PATHS = st.lists(st.tuples(st.lists(PARTS, max_size=4), FILES), min_size=1, max_size=14)
GLOBS = st.lists(st.sampled_from(["**", "*", "?*", "*.png", "t*", "[ct]*", "images"]), min_size=1, max_size=4)
LINKS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.sampled_from(["l", "m.png"])), max_size=3)


def examples(count: int) -> settings:
    return settings(max_examples=times(count), deadline=20_000, suppress_health_check=CHECKS, database=None)


@contextmanager
def tree(paths: list[tuple[list[str], str]], links: list[tuple[int, int, str]]) -> Iterator[Path]:
    root = Path(tempfile.mkdtemp()) / "root"
    root.mkdir()
    try:
        for folders, name in paths:
            place = root.joinpath(*folders)
            try:
                place.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(PICTURE.getvalue())
            except OSError:
                continue
        places = sorted(path for path in root.rglob("*") if path.is_dir()) or [root]
        for start, end, name in links:
            link = places[start % len(places)] / name
            if not os.path.lexists(link):
                link.symlink_to([*places, root, root / "gone"][end % (len(places) + 2)])
        yield root
    finally:
        shutil.rmtree(root.parent, ignore_errors=True)


def refused(error: RequestError, *names: str) -> None:
    """In a line that names what is wrong and what to do."""
    assert all(name in error.message for name in names), error.message
    assert error.hint
    assert "\n" not in str(error)


def real(root: Path, names: list[str]) -> set[str]:
    return {os.path.realpath(root / name) for name in names}


@examples(1500)
@given(PATHS, LINKS)
def test_layouts(paths: list[tuple[list[str], str]], links: list[tuple[int, int, str]]) -> None:
    with tree(paths, links) as root:
        left = SkippedFiles()
        walked = list(walk_images(root, "", left))
        assert len(walked) == len(set(walked))
        try:
            predicted = found_images(str(root))
        except RequestError as error:
            refused(error, "no images in")
            assert not walked
        else:
            assert predicted == [f"{root}/{name}" for name in walked]
        try:
            splits = part("datasets", "folder")(root).load()
        except RequestError as error:
            refused(error)
            return
        trained = {os.path.realpath(one[1].open.root / name) for one in splits.present() for name in one[1].names}
        assert trained <= real(root, walked), "training reads what prediction doesn't"
        if trained != real(root, walked):
            assert splits.notes, "what training leaves out is told"


@examples(800)
@given(
    PATHS, LINKS, st.lists(st.sampled_from(["**", "*", "?*", "*.png", "t*", "[ct]*", "images"]), min_size=1, max_size=4)
)
def test_globs(paths: list[tuple[list[str], str]], links: list[tuple[int, int, str]], parts: list[str]) -> None:
    with tree(paths, links) as root:
        pattern = "/".join([str(root), *parts])
        try:
            found = found_images(pattern)
        except RequestError:
            return
        assert all("@eaDir" not in path and "__MACOSX" not in path for path in found if os.path.lexists(path))


@examples(1500)
@given(st.lists(st.text(min_size=1, max_size=8).filter(lambda t: not set(t) & set("\n\r\0\ufeff"))), st.data())
def test_lists(names: list[str], data: st.DataObject) -> None:
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    try:
        content = "".join(name + end for name in names).encode(encoding)
    except UnicodeEncodeError:
        return
    if encoding == "utf-8" and names and names[0].encode()[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return
    assert listed_paths(content) == names


@examples(1500)
@given(st.binary(max_size=200))
def test_lists_of_any_bytes(content: bytes) -> None:
    for name in listed_paths(content):
        assert name


PLACES = st.sampled_from(["1.png", "a/1.PNG", "\u00e9.png"])
NAMES = st.text(min_size=1, max_size=8).filter(lambda t: t.isprintable() and t == t.strip())


@examples(1000)
@given(st.lists(NAMES, min_size=2, max_size=5, unique=True), NAMES)
def test_names_survive_being_written(names: list[str], target: str) -> None:
    mapped = dict.fromkeys(names, target)
    config = resolve(flags={"classes": ("classes", tuple(names)), "label_map": ("label_map", mapped)}).config
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "c.yaml")
        file.write_text(to_yaml(config), encoding="utf-8")
        again = resolve(file).config
        assert (again.classes, again.label_map) == (config.classes, config.label_map)
        assert yaml.safe_load(file.read_text(encoding="utf-8"))["classes"] == names


@examples(1000)
@given(
    st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4),
    st.sampled_from(["1.png", "a/1.PNG", "\u00e9.png"]),
)
def test_tables_of_any_paths(images: list[str], there: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, there)
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(PICTURE.getvalue())
        rows = "\n".join(f'"{image}",a'.replace('""', '"') for image in images)
        Path(folder, "t.csv").write_text(f"path,label\n{rows}\n", encoding="utf-8", errors="replace")
        try:
            part("datasets", "csv")(Path(folder, "t.csv")).load()
        except RequestError as error:
            refused(error, "t.csv")
