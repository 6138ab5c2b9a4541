"""`ftkit predict` and `ftkit.load(...).predict`: predictions for any files, in every format."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import ftkit
from ftkit import Predictor
from ftkit.api import UnreadableImage
from ftkit.cli.main import main
from ftkit.errors import RequestError
from ftkit.testing import draw_image
from tests.broken_plugins import install
from tests.conftest import typed
from tests.models import backbone, save_model
from tests.predictions import alike
from tests.sessions import session
from tests.transformed import evaluation_input

CLASSES = ("ants", "[/bees]", "caf\u00e9 owls")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run `runs/mine`, and eight images under `photos`, two of them unreadable."""
    folder = tmp_path_factory.mktemp("work")
    save_model(folder / "runs" / "mine" / "model", CLASSES)
    (folder / "runs" / "mine" / "config.yaml").write_text("")
    photos = folder / "photos"
    (photos / "deep").mkdir(parents=True)
    names = ("b.jpg", "a.png", "deep/c.jpg", "deep/with [b]rackets.png", "line\nbreak.png", "\u00fcn\u00efcode.png")
    for number, name in enumerate(names):
        draw_image(number, (40 + number, 32), name).save(photos / name)
    (photos / "cut.jpg").write_bytes((photos / "b.jpg").read_bytes()[:300])
    (photos / "empty.png").touch()
    (photos / "notes.txt").write_text("no image")
    (photos / ".hidden.png").touch()
    return folder


@pytest.fixture
def inside(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(work)
    return work


def expected(path: Path, folder: Path) -> list[float]:
    """Probabilities by a direct forward pass, without the code under test."""
    model = ftkit.load(folder / "runs" / "mine")
    with torch.no_grad():
        images = evaluation_input(model.preprocessing, path)[None]
        found: list[float] = model.calibrated_network(images).softmax(1)[0].tolist()
    return found


def json_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_folder_as_json_lines(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "photos", "--json", "--top-k", "3", "--batch-size", "3"]) == 1
    out, err = capsys.readouterr()
    lines = json_lines(out)
    assert [line["file"] for line in lines] == [
        "photos/a.png", "photos/b.jpg", "photos/cut.jpg", "photos/empty.png", "photos/line\nbreak.png",
        "photos/\u00fcn\u00efcode.png", "photos/deep/c.jpg", "photos/deep/with [b]rackets.png",
    ]  # fmt: skip
    for line in lines:
        if line["file"] in ("photos/cut.jpg", "photos/empty.png"):
            assert (line["label"], line["probability"], line["top"]) == (None, None, [])
            continue
        direct = dict(zip(CLASSES, expected(Path(str(line["file"])), inside), strict=True))
        top = line["top"]
        assert isinstance(top, list)
        assert {t["label"]: t["probability"] for t in top} == pytest.approx(direct, abs=2e-6)
        assert [t["probability"] for t in top] == sorted((t["probability"] for t in top), reverse=True)
        assert (line["label"], line["probability"], line["error"]) == (top[0]["label"], top[0]["probability"], None)
    assert lines[3]["error"] == "the file is empty"
    assert "2 of 8 files can't be read" in err
    assert "model: runs/mine/model" in err, "which model was taken is said"


def test_csv_reads_back_with_any_file_name(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["photos/line\nbreak.png", "photos/a.png", 'no,\r"thing".png']
    assert main(["predict", *files, "--format", "csv", "--top-k", "2"]) == 1
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))
    assert rows[0] == ["file", "label", "probability", "label_2", "probability_2", "error"]
    assert [row[0] for row in rows[1:]] == files
    assert rows[2][1] in CLASSES
    assert rows[3][1:] == ["", "", "", "", "can't be read: No such file or directory"]
    assert len({len(row) for row in rows}) == 1


def test_the_table_has_a_row_per_image(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "photos/line\nbreak.png", "photos/deep/with [b]rackets.png", "photos/empty.png"]) == 1
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["class", "probability", "file"]
    assert [line[heading.index("file") :] for line in lines] == [
        r"photos/line\nbreak.png", "photos/deep/with [b]rackets.png", "photos/empty.png  (the file is empty)",
    ]  # fmt: skip
    assert lines[0].split("  ")[0] in CLASSES
    assert lines[2].startswith("(unreadable)")


def test_globs_and_stdin_and_success(
    inside: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("photos/b.jpg\n\nphotos/a.png\r\n"))
    assert main(["predict", "-", "photos/**/*.jpg", "photos/deep/with [b]rackets.png", "--json", "-m", "mine"]) == 1
    found = [line["file"] for line in json_lines(capsys.readouterr().out)]
    listed = ["photos/b.jpg", "photos/a.png"]
    assert found == [*listed, "photos/b.jpg", "photos/cut.jpg", "photos/deep/c.jpg", "photos/deep/with [b]rackets.png"]
    assert main(["predict", "photos/deep", "--json", "--model", "runs/mine/model"]) == 0


def test_an_undecodable_file_name(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"photos/deep/\xff.png")
    draw_image(0, (20, 20), "x").save(name)
    try:
        for form in ("table", "csv", "jsonl"):
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
            assert main(["predict", name, "--format", form]) == 0
            assert r"\udcff.png" in capsys.readouterr().out
    finally:
        Path(name).unlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.png"], "nothing.png: no such file or folder"),
        (["nothing*.png"], "nothing*.png: no such file or folder"),
        (["void"], "no images in void"),
        (["photos", "--top-k", "4"], "top-k is 4, but the model has 3 classes"),
        (["photos", "--top-k", "0"], "top-k is 0"),
        (["photos", "--batch-size", "0"], "batch-size is 0"),
        (["photos", "--model", "mien"], "unknown run 'mien'"),
        (["photos", "--output", "void"], "no trained run in void"),
        (["photos", "--format", "xml"], "xml"),
    ],
)
def test_an_impossible_prediction_is_one_error_and_exit_code_2(
    inside: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (inside / "void").mkdir(exist_ok=True)
    assert main(["predict", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_an_empty_list_on_stdin(
    inside: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["predict", "-"]) == 2
    assert "no images in -" in capsys.readouterr().err


def test_the_library_takes_paths_and_images(inside: Path) -> None:
    model = ftkit.load("mine")
    assert isinstance(model, Predictor)
    assert model.classes == CLASSES
    path = inside / "photos" / "a.png"
    by_path, by_text, by_image = model.predict(path), model.predict(str(path)), model.predict(Image.open(path))
    assert by_path[0].probability == by_text[0].probability == by_image[0].probability
    assert by_path[0].probability == pytest.approx(max(expected(path, inside)), abs=1e-6)
    many = model.predict([draw_image(1, (30, 30), "same")] * 70, top_k=2, batch_size=16)
    assert len(many) == 70
    assert [p.name for p in many[:2]] == ["0", "1"]
    assert {p.label for p in many} == {many[0].label}


def test_batch_size_doesnt_change_the_predictions(inside: Path) -> None:
    model = ftkit.load("mine")
    pictures = [draw_image(n, (33, 40), str(n)) for n in range(9)]
    one = [p.top for p in model.predict(pictures, top_k=3, batch_size=1)]
    eight = [p.top for p in model.predict(pictures, top_k=3, batch_size=8)]
    assert [[label for label, _ in top] for top in one] == [[label for label, _ in top] for top in eight]
    assert [p for top in one for _, p in top] == pytest.approx([p for top in eight for _, p in top], abs=1e-6)


def test_a_sideways_photograph_is_turned_upright(inside: Path, tmp_path: Path) -> None:
    upright, exif = draw_image(0, (48, 32), "turn"), Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    model = ftkit.load("mine")
    by_file = model.predict([tmp_path / "turned.png", upright, Image.open(tmp_path / "turned.png")], top_k=3)
    assert alike(*by_file)


def test_predict_raises_where_iter_predict_continues(inside: Path) -> None:
    model, files = ftkit.load("mine"), ["photos/a.png", "photos/empty.png", "photos/b.jpg"]
    with pytest.raises(UnreadableImage, match=r"photos/empty\.png: the file is empty"):
        model.predict(files)
    assert [p.error for p in model.iter_predict(files)] == [None, "the file is empty", None]
    with pytest.raises(RequestError, match="top-k is 9"):
        model.iter_predict(files, top_k=9)


def test_a_stream_is_read_lazily(inside: Path) -> None:
    asked = 0

    def endless() -> Iterator[str]:
        nonlocal asked
        while True:
            asked += 1
            yield "photos/a.png"

    predictions = ftkit.load("mine").iter_predict(endless(), batch_size=4)
    for _ in range(10):
        assert next(predictions).label in CLASSES
    assert asked <= 24, "three batches, and two more ahead"


FORMS = ("jsonl", "csv")


@pytest.mark.parametrize("form", FORMS)
def test_predictions_go_to_a_file_and_resume_after_a_stop(form: str, inside: Path) -> None:
    whole = ("predict", "photos", "--top-k", "2", "--to", f"whole.{form}")
    assert typed(*whole).returncode == 1
    expected = (inside / f"whole.{form}").read_bytes()
    assert len(expected.splitlines()) > 4
    line = ("predict", "photos", "--top-k", "2", "--to", f"cut.{form}", "--resume")
    for end in (0, 3, len(expected) // 2, len(expected) - 1, len(expected)):
        (inside / f"cut.{form}").write_bytes(expected[:end])
        done = typed(*line)
        assert done.returncode == 1, done.stderr
        assert (inside / f"cut.{form}").read_bytes() == expected, f"cut at byte {end}"


@pytest.mark.parametrize("form", FORMS)
def test_predictions_of_another_model_are_not_resumed(form: str, inside: Path) -> None:
    torch.manual_seed(7)
    save_model(inside / "another", CLASSES, network=backbone("cifar_resnet20").build(3))
    assert typed("predict", "photos", "--model", "mine", "--to", f"mine.{form}").returncode == 1
    before = (inside / f"mine.{form}").read_bytes()
    done = typed("predict", "photos", "--model", "another", "--to", f"mine.{form}", "--resume")
    assert done.returncode == 2
    assert f"mine.{form} has predictions of another model: " in done.stderr
    assert (inside / f"mine.{form}").read_bytes() == before


def test_names_with_line_breaks_and_quotes_are_resumed(inside: Path) -> None:
    source = inside / "photos" / "a.png"
    folder = inside / "odd"
    folder.mkdir(exist_ok=True)
    for name in ("a\nb.png", 'c"d,.png', "e.png"):
        shutil.copy(source, folder / name)
    for form in FORMS:
        assert typed("predict", "odd", "--to", f"odd.{form}").returncode == 0
        expected = (inside / f"odd.{form}").read_bytes()
        for end in range(0, len(expected), 19):
            (inside / f"odd-cut.{form}").write_bytes(expected[:end])
            done = typed("predict", "odd", "--to", f"odd-cut.{form}", "--resume")
            assert done.returncode == 0, done.stderr
            assert (inside / f"odd-cut.{form}").read_bytes() == expected


def test_a_parquet_file_is_complete_or_absent(inside: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert typed("predict", "photos", "--top-k", "2", "--to", "a.parquet").returncode == 1
    rows = parquet.read_table(inside / "a.parquet").to_pylist()
    lines = typed("predict", "photos", "--top-k", "2", "--json").stdout.splitlines()
    printed = [json.loads(line) for line in lines]
    assert [row["file"] for row in rows] == [one["file"] for one in printed]
    assert [row["label"] for row in rows] == [one["label"] for one in printed]
    assert [one["label"] for row in rows for one in row["top"]] == [o["label"] for one in printed for o in one["top"]]
    assert not list(inside.glob(".*.part"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resume",), "name it with --to FILE"),
        (("--to", "a.txt"), "doesn't end in .jsonl, .csv, .parquet"),
        (("--to", "a.csv", "--json"), "doesn't end in .jsonl"),
        (("--to", "a.parquet", "--resume"), "a Parquet file can't be resumed"),
        (("--to", "there.jsonl"), "it exists already"),
        (("--to", "there.jsonl", "--resume"), "isn't a file of predictions"),
        (("--to", "other.jsonl", "--resume"), "prediction 1 in other.jsonl is of else.png"),
        (("--to", "wide.jsonl", "--resume"), "has 2 classes per image"),
    ],
)
def test_an_unsuitable_file_is_refused_and_kept(options: tuple[str, ...], message: str, inside: Path) -> None:
    contents = {
        "there.jsonl": "hello\n",
        "other.jsonl": '{"file": "else.png", "label": "ants", "probability": 0.9, "top": [1]}\n',
        "wide.jsonl": '{"file": "else.png", "label": "ants", "probability": 0.9, "top": [1, 2]}\n',
    }
    for name, text in contents.items():
        (inside / name).write_text(text)
    done = typed("predict", "photos", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert {name: (inside / name).read_text() for name in contents} == contents


def test_a_model_of_a_plugin(work: Path, tmp_path: Path) -> None:
    folder = work / "runs" / "mine" / "model"
    site = install(
        tmp_path / "site",
        "shelf",
        f"from pathlib import Path\nfrom ftkit.api import hookimpl\n@hookimpl\ndef ftkit_models():\n"
        f"    return {{'mine': Path({str(folder)!r}), 'empty': Path({str(tmp_path)!r}), 'odd': 5}}\n",
    )
    photo = work / "photos" / "b.jpg"
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "local").symlink_to(folder)
    lines = [f"predict {photo} --json --model {model}" for model in ("shelf/mine", folder, "shelf/local")]
    wrong = [f"predict {photo} --model {model}" for model in ("shelf/mien", "shelf/empty", "shelf/odd", "self/mine")]
    theirs, ours, local, *refused = session(site, *lines, *wrong, FTKIT_PLUGIN_TIMEOUT="60")
    assert theirs.code == 0, theirs.err
    assert theirs.out == ours.out == local.out
    assert [answer.code for answer in refused] == [2] * 4
    assert "did you mean 'shelf/mine'?" in refused[0].err
    assert "is neither a run nor a model" in refused[1].err
    assert "model 'shelf/odd': plugin 'shelf' failed" in refused[2].err
    assert "self/mine" in refused[3].err


def test_several_processes_give_the_same_predictions(inside: Path, tmp_path: Path) -> None:
    line = ("predict", "photos", "--batch-size", "1", "--top-k", "2", "--json")
    one, two = (typed(*line, "--model", "mine", "--num-processes", count) for count in ("1", "2"))
    assert (one.returncode, two.returncode) == (1, 1), "two images can't be read"
    assert one.stdout == two.stdout
    assert len(one.stdout.splitlines()) == 8
    assert one.stderr == two.stderr


@pytest.mark.long
def test_a_model_that_processes_cannot_load_is_one_error(inside: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(inside / "runs" / "mine" / "model", tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no weights")
    done = typed("predict", "photos", "--model", str(broken), "--num-processes", "2", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "model.safetensors: the file is damaged" in done.stderr
    assert "Traceback" not in done.stderr
