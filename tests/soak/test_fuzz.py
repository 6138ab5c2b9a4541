"""Whatever is in a config, flag, image, checkpoint, card or archive: it works, or one line names it."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import ftkit
from ftkit.api import open_image
from ftkit.errors import FtkitError
from tests.conftest import MakeFolder, typed
from tests.soak import times
from tests.soak.readers import FLAG_NAMES, config_keys, read_checkpoint, unpack

pytestmark = pytest.mark.soak

SLOWEST_MS = 20_000
"""What takes longer counts as hanging; a decoder may take a second over a large picture."""

MOST_MEMORY = 16 * 2**30
"""Bytes of addresses, of which torch takes a few billion for itself."""

CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


def examples(count: int) -> Callable[[Any], Any]:
    return settings(max_examples=times(count), deadline=SLOWEST_MS, suppress_health_check=CHECKS, database=None)


@pytest.fixture(scope="module", autouse=True)
def limit() -> Iterator[None]:
    """What asks for more memory than any of this needs fails by itself, not by what the machine does about it."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    """A folder with data and a run."""
    place = tmp_path_factory.mktemp("fuzz")
    image_folder(place / "data", {"train": {"a": 8, "b": 8}, "val": {"a": 3, "b": 3}})
    plan: dict[str, Any] = {"backbone": "lenet", "weights": "none", "epochs": 1, "workers": 0}
    dataset = {"name": "folder", "root": str(place / "data")}
    ftkit.train(ftkit.plan(dataset=dataset, output=str(place / "runs"), name="run", **plan))
    return place


@contextmanager
def refused(*names: str) -> Iterator[None]:
    """It works, or a line names what doesn't."""
    try:
        yield
    except FtkitError as error:
        if not any(name in str(error) for name in names):
            pytest.fail(str(error))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["lenet", "gradual", "auto", "adamw", "folder", "none", "error", "../..", "1e400", "0x1", "\x1b[2J", "~"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)


KEYS = sorted(config_keys())


def nested(pairs: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in pairs.items():
        at = tree
        *above, last = key.split(".")
        for part in above:
            at = at.setdefault(part, {}) if isinstance(at.get(part, {}), dict) else {}
        at[last] = value
    return tree


def reported_well(done: Any, *names: str) -> None:
    """Exit code 0, or 1 or 2 with a line that names what is wrong; never a bug of ours."""
    printed = done.stderr
    assert done.returncode in (0, 1, 2), printed
    assert "internal error" not in printed, printed
    assert "Traceback" not in printed, printed
    if done.returncode:
        errors = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert errors, printed
        assert any(name in line for line in errors for name in (*names, "unexpected argument", "no such option")), (
            printed
        )
    assert "\x1b" not in printed, "a terminal must not obey what a file says"


@examples(2500)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=5))
def test_configs_of_known_keys(place: Path, pairs: dict[str, Any]) -> None:
    file = place / "fuzzed.yaml"
    file.write_text(yaml.safe_dump(nested(pairs), allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    reported_well(typed("config", "validate", str(file), cwd=place), "fuzzed.yaml")


@examples(1000)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_configs_of_anything(place: Path, content: bytes) -> None:
    file = place / "anything.yaml"
    file.write_bytes(content)
    reported_well(typed("config", "validate", str(file), cwd=place), "anything.yaml")


WORDS = (
    st.text(max_size=12).filter(lambda text: "\0" not in text)
    | st.integers().map(str)
    | st.sampled_from(
        ["nan", "-inf", "1e999", "none", "auto", "sgd", "adamw", "freeze", "lenet", "0", "-1", "1", "2.5"]
    )
)


@examples(1000)
@given(st.lists(st.tuples(st.sampled_from([*FLAG_NAMES, "--set", "--nonsense", "-c"]), WORDS), max_size=3))
def test_flags(place: Path, flags: list[tuple[str, str]]) -> None:
    request = [part for pair in flags for part in pair]
    base = ["--data", str(place / "data"), "--backbone", "lenet", "--weights", "none"]
    done = typed("plan", *(base if not {"--data", "--dataset"} & set(request) else base[2:]), *request, cwd=place)
    reported_well(
        done,
        *(name for name, _ in flags),
        *(word.splitlines()[0] for _, word in flags if word.strip()),
        "data",
        "dataset",
    )


def pictures() -> list[bytes]:
    """One of each kind, small."""
    made = []
    for kind, mode in (
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("JPEG", "RGB"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("TIFF", "RGB"),
        ("WEBP", "RGB"),
        ("PPM", "RGB"),
    ):
        buffer = io.BytesIO()
        Image.effect_noise((24, 16), 60).convert(mode).save(buffer, kind)
        made.append(buffer.getvalue())
    return made


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        how = draw(st.sampled_from(["set", "cut", "insert", "remove"]))
        if how == "set" and content:
            content[place] = draw(st.integers(0, 255))
        elif how == "cut":
            del content[place:]
        elif how == "insert":
            content[place:place] = draw(st.binary(max_size=8))
        else:
            del content[place : place + draw(st.integers(1, 16))]
    return bytes(content)


@examples(3000)
@given(mutated(pictures()))
def test_images(place: Path, content: bytes) -> None:
    file = place / "fuzzed.img"
    file.write_bytes(content)
    with refused("fuzzed.img"):
        open_image(file)


def paths_in(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from paths_in(value, (*at, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from paths_in(value, (*at, index))


def put(tree: Any, at: tuple[Any, ...], value: Any) -> Any:
    """The tree with another value in one place, or without that place where the value is `DROP`."""
    copy = json.loads(json.dumps(tree))
    *above, last = at
    inner = copy
    for part in above:
        inner = inner[part]
    if value is DROP:
        del inner[last]
    else:
        inner[last] = value
    return copy


DROP = object()
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
) | st.just(DROP)


@examples(1200)
@given(st.data())
def test_checkpoints_that_somebody_wrote(place: Path, data: st.DataObject) -> None:
    """With the right hashes, so that what is in them must be read with care."""
    source = next((place / "runs" / "run" / "checkpoints").glob("e*"))
    content = json.loads((source / "state.json").read_text())
    at = data.draw(st.sampled_from(sorted(paths_in(content), key=repr)))
    changed = json.dumps(put(content, at, data.draw(JSON_VALUES)), indent=1).encode()
    run = place / "runs" / "forged"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(place / "runs" / "run", run, ignore=shutil.ignore_patterns("last", "model"))
    target = run / "checkpoints" / source.name
    (target / "state.json").write_bytes(changed)
    manifest = json.loads((target / "MANIFEST.json").read_text())
    manifest["state.json"] = {"sha256": hashlib.sha256(changed).hexdigest(), "size": len(changed)}
    (target / "MANIFEST.json").write_text(json.dumps(manifest, indent=1))
    assert not load_is_damaged(run / "checkpoints")
    reported_well(
        typed("train", "--resume", str(run), "--quiet", cwd=place), "forged", "the run can't resume", "the run had"
    )


def load_is_damaged(folder: Path) -> bool:
    try:
        read_checkpoint(folder)
    except FtkitError as error:
        return "is damaged" in str(error)
    return False


@examples(1200)
@given(st.data())
def test_cards_that_somebody_wrote(place: Path, data: st.DataObject) -> None:
    source = place / "runs" / "run" / "model"
    content = json.loads((source / "model.json").read_text())
    at = data.draw(st.sampled_from(sorted((p for p in paths_in(content) if p[0] != "sha256"), key=repr)))
    changed = put(content, at, data.draw(JSON_VALUES))
    changed["sha256"] = "0" * 64
    blank = json.dumps(changed, indent=2).encode()
    sealed = blank.replace(b'"' + b"0" * 64 + b'"', f'"{hashlib.sha256(blank).hexdigest()}"'.encode(), 1)
    forged = place / "forged-model"
    shutil.rmtree(forged, ignore_errors=True)
    shutil.copytree(source, forged)
    (forged / "model.json").write_bytes(sealed)
    image = str(next((place / "data" / "val" / "a").iterdir()))
    reported_well(typed("predict", image, "--model", str(forged), cwd=place), "forged-model")


def archives(place: Path) -> list[bytes]:
    made = []
    for kind in ("zip", "tar", "gztar", "bztar"):
        with tempfile.TemporaryDirectory() as folder:
            made.append(Path(shutil.make_archive(f"{folder}/it", kind, place / "data")).read_bytes())
    return made


@examples(1000)
@given(st.data())
def test_archives(place: Path, data: st.DataObject) -> None:
    content = data.draw(mutated(archives(place)))
    file, target = place / "fuzzed-archive", place / "inner" / "unpacked"
    file.write_bytes(content)
    before = Counter(path.name for path in place.iterdir())
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with refused("fuzzed-archive"):
        unpack(file, target)
    assert Counter(path.name for path in place.iterdir()) - before <= Counter(["inner"])
    assert [path.name for path in target.parent.iterdir()] == ["unpacked"]
