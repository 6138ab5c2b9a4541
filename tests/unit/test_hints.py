"""Hints that look: the file that is there in place of the one that isn't, and what a file is by its content."""

from __future__ import annotations

import io
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ftkit.api import UnreadableImage, open_image
from ftkit.config.load import resolve
from ftkit.errors import RequestError
from ftkit.models.weights.files import read_weights
from tests.conftest import typed
from tests.models import part

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
PAGE = b"<!DOCTYPE html>\n<html><body>Not found</body></html>"
NFD = unicodedata.normalize("NFD", "caf\u00e9")

CsvFile, Folder, Archive = (part("datasets", name) for name in ("csv", "folder", "archive"))


def table(root: Path, *images: str, files: tuple[str, ...], **options: str) -> Any:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)
    rows = [f'"{image}",{"ab"[number % 2]}' for number, image in enumerate(images)]
    (root / "t.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    return CsvFile(root / "t.csv", **options)


@pytest.mark.parametrize(
    ("images", "files", "there", "hint"),
    [
        (
            ["1", "2"],
            ("1.jpg", "2.jpg"),
            "1.jpg",
            "--set dataset.image_suffix=.jpg (for all 2)",
        ),
        (["a/1"], ("a/1.jpg",), "a/1.jpg", "--set dataset.image_suffix=.jpg"),
        (["1.2"], ("1.2.png",), "1.2.png", "--set dataset.image_suffix=.png"),
        (["1.png"], ("1.jpg",), "1.jpg", "use the extension of the files, .jpg"),
        (["A.jpg"], ("a.JPG",), "a.JPG", "use the case of the file names"),
        (["Img/a.jpg"], ("img/a.jpg",), "img/a.jpg", "use the case of the file names"),
        (["A"], ("a.JPG",), "a.JPG", "dataset.image_suffix=.JPG"),
        (["caf\u00e9.jpg"], (f"{NFD}.jpg",), f"{NFD}.jpg", "use the Unicode form of the file names"),
        ([f"{NFD}/x.jpg"], ("caf\u00e9/x.jpg",), "caf\u00e9/x.jpg", "use the Unicode form of the file names"),
        (
            [r"a\1.jpg", r"a\2.jpg"],
            ("a/1.jpg", "a/2.jpg"),
            "a/1.jpg",
            r"not \ (for all 2)",
        ),
        (["1.jpg", "2.jpg"], ("images/1.jpg", "images/2.jpg"), "images/1.jpg", "--set dataset.root="),
        (["1"], ("images/1.jpg",), "images/1.jpg", "dataset.root="),
        (["data/images/1.jpg"], ("images/1.jpg",), "images/1.jpg", "remove 'data/' from the column"),
        (["/nowhere/images/1.jpg"], ("images/1.jpg",), "images/1.jpg", "remove '/nowhere/' from the column"),
        (["a / 1.jpg"], ("a/1.jpg",), "a/1.jpg", "remove spaces and quotes from the column"),
        (["\u200b1.jpg"], ("1.jpg",), "1.jpg", "remove spaces and quotes"),
        (["7", "8"], ("007.jpg", "008.jpg"), "007.jpg", "leading zeros"),
        (["7.0"], ("7.jpg",), "7.jpg", "keep the column as text"),
        (["1", "x.jpg"], ("1.jpg",), "1.jpg", "dataset.image_suffix=.jpg (for 1 of 2)"),
    ],
)
def test_a_table_of_names_that_arent_quite_there(
    tmp_path: Path, images: list[str], files: tuple[str, ...], there: str, hint: str
) -> None:
    with pytest.raises(RequestError) as caught:
        table(tmp_path, *images, files=files).load()
    assert f"{tmp_path}/t.csv line 2: no file " in caught.value.message
    assert caught.value.message.endswith(f", but {tmp_path}/{there} exists")
    assert hint in str(caught.value.hint)


def test_the_hint_of_an_ending_works(tmp_path: Path) -> None:
    splits = table(tmp_path, "1", "2", "3.JPG", files=("1.jpg", "2.jpg", "3.JPG"), image_suffix=".jpg").load()
    assert splits.train is not None
    assert splits.train.names == ["1.jpg", "2.jpg", "3.JPG"]


def test_the_hint_of_a_root_works(tmp_path: Path) -> None:
    wrong = table(tmp_path, "1.jpg", "2.jpg", files=("images/1.jpg", "images/2.jpg"))
    with pytest.raises(RequestError) as caught:
        wrong.load()
    root = str(caught.value.hint).partition("dataset.root=")[2].partition(" ")[0]
    assert CsvFile(wrong.path, root=Path(root)).load().train is not None


def test_names_that_are_nowhere_or_no_paths(tmp_path: Path) -> None:
    for name in ("nope", "https://host/a.jpg", "x" * 300, "../../nope.jpg", "/"):
        with pytest.raises(RequestError) as caught:
            table(tmp_path, name, files=("1.jpg",)).load()
        assert "exists" not in caught.value.message
        assert caught.value.hint


def test_a_large_table_of_ids_is_one_line_and_quick(tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    for number in range(3000):
        (tmp_path / "i" / f"{number}.jpg").touch()
    with pytest.raises(RequestError, match=r"\(3,000 are missing\).*i/0.jpg exists \(.*for the first 1,000"):
        table(tmp_path, *(f"i/{number}" for number in range(3000)), files=()).load()


def zipped(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, "x")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (zipped("[Content_Types].xml"), "an Excel workbook"),
        (zipped("a.jpg"), "a zip archive"),
        (PAGE, "an HTML page"),
        (POINTER, "a git-lfs pointer"),
        ("path,label\n1.jpg,a\n".encode("utf-16"), "text in UTF-16"),
        (b'{"path": "1.jpg"}', "a JSON file"),
        (b"\xff\xd8\xff\xe0\0\0", "a JPEG image"),
    ],
)
def test_what_is_called_csv_and_is_none(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(RequestError, match=f"t.csv is {kind}, not a CSV file"):
        CsvFile(tmp_path / "t.csv").load()


@pytest.mark.parametrize(("content", "kind"), [(PAGE, "an HTML page"), (POINTER, "a git-lfs pointer"), (b"{}", None)])
def test_what_is_called_an_image_an_archive_or_weights_and_is_none(
    tmp_path: Path, content: bytes, kind: str | None
) -> None:
    for name in ("a.jpg", "a.zip", "a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImage, match=f"but {kind}" if kind else "or of a format that can't be read"):
        open_image(tmp_path / "a.jpg")
    with pytest.raises(RequestError, match=f"not a zip or tar archive .it is {kind}" if kind else "may be a web page"):
        Archive(tmp_path / "a.zip").load()
    for name in ("a.pth", "a.safetensors"):
        with pytest.raises(RequestError, match=f"can't be read: it is {kind}" if kind else "can't be read"):
            read_weights(tmp_path / name)


def test_weights_with_the_other_ending(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "a.pth")
    torch.save({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(
        RequestError, match=r"can't be read: it is a safetensors file.*rename it to end in \.safetensors"
    ):
        read_weights(tmp_path / "a.pth")
    with pytest.raises(RequestError, match=r"it is a (zip archive|PyTorch checkpoint) .*ends in \.pt"):
        read_weights(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (PAGE, "it is an HTML page, not YAML"),
        (POINTER, "it is a git-lfs pointer, not YAML"),
        (b'[tool]\nepochs = 3\nname = "x"\n', "it is TOML by its look"),
        (b"epochs = 3\n", "it is TOML by its look"),
        ("epochs: 3\n".encode("utf-16"), "it is text in UTF-16"),
        (zipped("a"), "it is a zip archive"),
    ],
)
def test_a_config_of_another_kind(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(RequestError) as caught:
        resolve(tmp_path / "c.yaml")
    assert says in str(caught.value)


def test_a_config_in_json_or_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"epochs": 3, "classes": ["01", "b"]}')
    assert resolve(tmp_path / "c.json").config.classes == ("01", "b")
    (tmp_path / "c.yaml").write_text("\ufeffepochs: 3\r\n", encoding="utf-8")
    assert resolve(tmp_path / "c.yaml").config.epochs == 3


def test_data_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(zipped("a/1.jpg"))
    done = typed("plan", "--data", "data.bin", cwd=tmp_path)
    assert (done.returncode, "it is a zip archive" in done.stderr) == (2, True)
    assert "--dataset archive --set dataset.source=data.bin" in done.stderr
    with pytest.raises(RequestError, match=r"data\.bin is a zip archive, not a folder of images"):
        Folder(tmp_path / "data.bin").load()


def test_absolute_paths_and_leading_slashes(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        table(tmp_path, "/images/1.jpg", files=("images/1.jpg",)).load()
    assert (caught.value.hint or "").startswith("remove the leading / from the column")
    with pytest.raises(RequestError) as caught:
        table(tmp_path, f"{tmp_path}/images/1.JPG", files=("images/1.jpg",)).load()
    assert (caught.value.hint or "").startswith("use the case of the file names")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("1.jpg,cat", "has no column 'path': its first line is not a header: 1.jpg, cat"),
        ("path,label,label", "has 2 columns 'label'"),
    ],
)
def test_headers_that_are_none_or_say_two_things(tmp_path: Path, header: str, says: str) -> None:
    (tmp_path / "t.csv").write_text(f"{header}\n2.jpg,dog,dog\n", encoding="utf-8")
    with pytest.raises(RequestError, match=says):
        CsvFile(tmp_path / "t.csv").load()
