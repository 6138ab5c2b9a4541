"""Archives of images: fetched whole or not at all, unpacked safely or not at all, and once."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from ftkit.api import Splits, cache_folder
from ftkit.builtin.datasets import unpacking as unpacking
from ftkit.builtin.datasets.archive import Archive
from ftkit.errors import FtkitError, RequestError
from tests.conftest import RunFtkit
from tests.read_only import with_read_only

PNG = io.BytesIO()
Image.new("RGB", (4, 4), "red").save(PNG, "PNG")
DOT = PNG.getvalue()
FOUR = {f"{split}/{name}/1.png": DOT for split in ("train", "val") for name in ("ants", "bees")}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


@dataclass
class Server:
    """A loopback server; each path has the function that answers for it."""

    address: str = ""
    results: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def give(self, path: str, body: bytes, length: int | None = None, wait: threading.Event | None = None) -> str:
        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Length", str(len(body) if length is None else length))
            request.end_headers()
            if wait is not None:
                wait.wait(10)
            request.wfile.write(body)

        self.results[path] = answer
        return self.address + path

    def lead(self, path: str, to: str) -> str:
        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(302)
            request.send_header("Location", to)
            request.send_header("Content-Length", "0")
            request.end_headers()

        self.results[path] = answer
        return self.address + path


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append((self.path, self.headers["User-Agent"]))
            if self.path in state.results:
                state.results[self.path](self)
            else:
                self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        state.address = f"http://127.0.0.1:{served.server_port}"
        thread = threading.Thread(target=served.serve_forever, args=(0.02,))
        thread.start()
        yield state
        served.shutdown()
        thread.join()


def zipped(files: dict[str, bytes] = FOUR) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def tarred(files: dict[str, bytes] = FOUR, mode: str = "w", more: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in more:
            archive.addfile(member)
    made_bytes: bytes = made.getvalue()
    return made_bytes


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def names(splits: Splits) -> list[str]:
    return [name for _, split in splits.present() for name in split.names]


def refusal(source: Path | str, sha256: str | None = None) -> str:
    """The one line that refuses; nothing is left but what was there."""
    with pytest.raises(RequestError) as caught:
        Archive(source, sha256).load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unpacked(cache: Path) -> list[str]:
    """Everything in the cache that is no lock and no remembered sum."""
    if not cache.exists():
        return []
    return sorted(
        p.name for p in cache.iterdir() if not p.name.endswith(".lock") and p.name not in ("sums", "downloads")
    )


# Reading


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_archives_are_read_as_folders(mode: str, tmp_path: Path) -> None:
    splits = Archive(written(tmp_path / "a.tar", tarred(mode=mode))).load()
    assert splits.classes == ("ants", "bees")
    assert names(splits) == sorted(FOUR)
    assert splits.train is not None
    assert splits.train[0][0].size == (4, 4)


def test_what_an_archive_is_shows_in_its_bytes_and_not_its_name(tmp_path: Path) -> None:
    assert names(Archive(written(tmp_path / "images.tar", zipped())).load()) == sorted(FOUR)


def test_folders_around_the_images_are_entered(tmp_path: Path) -> None:
    around = {f"data/hymenoptera/{name}": content for name, content in FOUR.items()}
    archive = written(
        tmp_path / "a.zip", zipped({**around, "__MACOSX/data/._x": b"", "data/.DS_Store": b"", "README": b""})
    )
    assert names(Archive(archive).load()) == sorted(FOUR)


def test_a_training_folder_alone_is_not_entered(tmp_path: Path) -> None:
    only = {name: content for name, content in FOUR.items() if name.startswith("train")}
    splits = Archive(written(tmp_path / "a.zip", zipped(only))).load()
    assert names(splits) == ["train/ants/1.png", "train/bees/1.png"]


def test_size_and_sum_are_reported(tmp_path: Path, cache: Path) -> None:
    content = zipped()
    archive, sha256 = written(tmp_path / "a.zip", content), hashlib.sha256(content).hexdigest()
    assert Archive(archive).load().notes == (
        f"archive {archive}: {len(content)} bytes, sha256 {sha256}, extracted to {cache / sha256}",
    )


def test_the_data_is_the_same_wherever_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = written(tmp_path / "a.zip", zipped())
    first = Archive(archive).load().fingerprint()
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "other"))
    assert Archive(archive).load().fingerprint() == first


def test_a_changed_archive_is_unpacked_anew(tmp_path: Path) -> None:
    archive = written(tmp_path / "a.zip", zipped())
    Archive(archive).load()
    written(archive, zipped({**FOUR, "train/ants/2.png": DOT}))
    assert "train/ants/2.png" in names(Archive(archive).load())


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("FTKIT_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "ftkit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ftkit"


def test_a_cache_that_can_only_be_read_is_enough(tmp_path: Path, cache: Path) -> None:
    archive = written(tmp_path / "a.zip", zipped())
    Archive(archive).load()
    code = (
        "import sys; from ftkit.builtin.datasets.archive import Archive; print(len(Archive(sys.argv[1]).load().train))"
    )
    command = with_read_only(cache, sys.executable, "-c", code, str(archive))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "2\n", done.stderr


# Fetching


def test_an_address_is_fetched_once(server: Server, cache: Path) -> None:
    content = zipped()
    url = server.give("/data/a.zip?x=1", content)
    splits = Archive(url).load()
    assert names(splits) == sorted(FOUR)
    sha256 = hashlib.sha256(content).hexdigest()
    assert splits.notes == (f"archive {url}: {len(content)} bytes, sha256 {sha256}, extracted to {cache / sha256}",)
    assert names(Archive(url, sha256.upper()).load()) == sorted(FOUR)
    assert [path for path, _ in server.asked] == ["/data/a.zip?x=1"]
    assert re.fullmatch(r"ftkit(/\S+)? Python-urllib/3\.\d+\.\d+", server.asked[0][1])
    (kept,) = (cache / "downloads").glob("*/a.zip")
    assert kept.read_bytes() == content


def test_redirects_are_followed_to_http_alone(server: Server) -> None:
    assert names(Archive(server.lead("/moved", server.give("/a.zip", zipped()))).load()) == sorted(FOUR)
    with pytest.raises(FtkitError, match=r"/bad: can't be downloaded: it redirects to .*, which is not safe"):
        Archive(server.lead("/bad", "ftp://127.0.0.1/a.zip")).load()
    with pytest.raises(FtkitError, match=r"file:///etc/passwd' is not allowed \(check the URL"):
        Archive(server.lead("/bad", "file:///etc/passwd")).load()


@pytest.mark.parametrize("body", [tarred()[:2000], zipped()[:200], b""])
def test_a_download_that_is_cut_short_is_not_kept(body: bytes, server: Server, cache: Path) -> None:
    url = server.give("/a.zip", body, length=5000)
    with pytest.raises(
        FtkitError, match=rf"{url}: only {len(body):,} of 5,000 bytes were received \(try again, or save"
    ) as caught:
        Archive(url).load()
    assert caught.value.exit_code == 1
    server.give("/a.zip", zipped())
    assert names(Archive(url).load()) == sorted(FOUR)


def test_a_server_that_refuses_is_one_line(server: Server, cache: Path) -> None:
    with pytest.raises(FtkitError) as caught:
        Archive(server.address + "/gone.tar.gz").load()
    (place,) = (cache / "downloads").iterdir()
    assert str(caught.value) == (
        f"{server.address}/gone.tar.gz: the server returned 404 Not Found "
        f"(check the URL, or save the archive as {place / 'gone.tar.gz'} yourself)"
    )


def test_without_a_server_the_archive_can_be_put_there_by_hand() -> None:
    url = "http://127.0.0.1:9/a.zip"
    with pytest.raises(FtkitError) as caught:
        Archive(url).load()
    printed = re.fullmatch(
        rf"{url}: can't be downloaded: Connection refused \(check.*save the archive as (.*) yourself\)",
        str(caught.value),
    )
    assert printed is not None, caught.value
    written(Path(printed[1]), zipped())
    assert names(Archive(url).load()) == sorted(FOUR)


def test_a_silent_server_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftkit.builtin.datasets.download.TIMEOUT", 0.2)
    stop = threading.Event()
    url = server.give("/a.zip", zipped(), wait=stop)
    with pytest.raises(FtkitError, match=r"can't be downloaded: timed out"):
        Archive(url).load()
    stop.set()


@pytest.mark.parametrize("url", ["ftp://host/a.zip", "http:///a.zip", "s3://bucket/a.zip", "data://x"])
def test_other_addresses_are_refused(url: str) -> None:
    assert refusal(url) == f"{url}: only http and https URLs are supported (or give the path of a local file)"


def test_an_address_of_nothing_is_refused() -> None:
    assert refusal("http://[::x/a.zip").startswith("http://[::x/a.zip: not a URL: Invalid IPv6 URL (")


def test_a_file_address_is_refused_as_a_path() -> None:
    assert refusal("file:///data/a.zip") == (
        "file:///data/a.zip: file URLs are not supported (give the path: /data/a.zip)"
    )


def test_another_sum_is_refused_and_nothing_kept(server: Server, cache: Path, tmp_path: Path) -> None:
    content, other = zipped(), "a" * 64
    url, sha256 = server.give("/a.zip", content), hashlib.sha256(content).hexdigest()
    assert refusal(url, other).startswith(f"{url} has the sha256 {sha256}, not {other} (")
    assert [p for p in cache.rglob("*") if p.is_file() and p.name != ".lock"] == []
    archive = written(tmp_path / "a.zip", content)
    assert refusal(archive, other).startswith(f"{archive} has the sha256 {sha256}, not {other} (")
    assert unpacked(cache) == []
    assert "is not a SHA-256 (give 64 hex digits" in refusal(archive, "abc")


def test_what_is_no_archive_is_fetched_again_next_time(server: Server, cache: Path) -> None:
    url = server.give("/a.zip", b"<html>please log in</html>")
    assert refusal(url) == f"{url}: not a zip or tar archive (it is an HTML page)"
    server.give("/a.zip", zipped())
    assert names(Archive(url).load()) == sorted(FOUR)


def test_two_processes_fetch_once(server: Server, cache: Path) -> None:
    content = tarred({f"train/{kind}/{n}.png": DOT for kind in "ab" for n in range(200)})
    go = threading.Event()
    url = server.give("/a.tar", content, wait=go)
    code = "import sys; from ftkit.builtin.datasets.archive import Archive\n"
    code += "print(Archive(sys.argv[1]).load().fingerprint())"
    both = [
        subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    threading.Timer(1.5, go.set).start()
    printed = [process.communicate(timeout=60) for process in both]
    assert [error for _, error in printed] == ["", ""]
    assert printed[0][0] == printed[1][0] != ""
    assert len(server.asked) == 1
    assert unpacked(cache) == [hashlib.sha256(content).hexdigest()]


def test_what_a_killed_process_left_is_cleared_away(server: Server, cache: Path) -> None:
    url = server.give("/a.zip", zipped())
    with pytest.raises(FtkitError):
        Archive(url.replace("a.zip", "b.zip")).load()
    sha256 = hashlib.sha256(zipped()).hexdigest()
    (cache / f".{sha256}.123.part" / "train").mkdir(parents=True)
    Archive(url).load()
    assert unpacked(cache) == [sha256]


# Hostile and damaged archives


def link_in_zip(name: str, to: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for one, content in FOUR.items():
            archive.writestr(one, content)
        entry = zipfile.ZipInfo(name)
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, to)
    return made.getvalue()


def twice() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("train/a.png", DOT)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("train/a.png", DOT)
    return made.getvalue()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "a zip that climbs": (zipped({"train/../../x.png": DOT}), "'train/../../x.png' leaves the folder"),
    "a zip that climbs by backslashes": (zipped({"..\\x.png": DOT}), "'../x.png' leaves the folder"),
    "a tar that climbs": (tarred({"../x.png": DOT}), "'../x.png' leaves the folder"),
    "an absolute zip": (zipped({"/tmp/x.png": DOT}), "'/tmp/x.png' leaves the folder"),
    "a drive": (zipped({"C:\\x.png": DOT}), "'C:/x.png' leaves the folder"),
    "an absolute tar": (tarred({"/tmp/x.png": DOT}), "'/tmp/x.png' leaves the folder"),
    "a symlink out": (tarred(more=(special("l", tarfile.SYMTYPE, "/etc/passwd"),)), "'l' is a link that leaves"),
    "a symlink up": (tarred(more=(special("a/l", tarfile.SYMTYPE, "../../x"),)), "'a/l' is a link that leaves"),
    "a hard link out": (tarred(more=(special("l", tarfile.LNKTYPE, "../x"),)), "'l' is a link that leaves"),
    "a link in a zip": (link_in_zip("l", "../../etc/passwd"), "'l' is a link that leaves"),
    "a link to a folder": (
        tarred(more=(special("l", tarfile.SYMTYPE, "train"),)),
        "which is not a file of the archive",
    ),
    "a way through a link": (
        tarred({}, more=(special("l", tarfile.SYMTYPE, "/tmp"), special("l/x", tarfile.DIRTYPE))),
        "is a link that leaves",
    ),
    "a device": (tarred(more=(special("train/null", tarfile.CHRTYPE),)), "'train/null' is a device or a pipe"),
    "a pipe": (tarred(more=(special("train/fifo", tarfile.FIFOTYPE),)), "'train/fifo' is a device or a pipe"),
    "a name twice": (twice(), "it contains 'train/a.png' twice"),
    "a file as a folder": (tarred({"a": DOT, "a/b": DOT}), "it contains 'a/b' twice"),
    "a long name": (zipped({f"train/{'x' * 256}": DOT}), "is too long"),
    "a deep name": (zipped({"x/" * 600: DOT}), "is too long"),
    "a long description": (tarred({"x" * (2 << 20): DOT}, "w:gz"), "the header of an entry is too long"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_are_refused_and_leave_nothing(what: str, tmp_path: Path, cache: Path) -> None:
    content, reason = HOSTILE[what]
    archive = written(tmp_path / "a", content)
    printed = refusal(archive)
    assert printed.startswith(f"{archive}: unsafe archive: ")
    assert reason in printed
    assert unpacked(cache) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "cache"]


@pytest.mark.parametrize("made", [zipped, lambda files: tarred(files, "w:xz")], ids=["zip", "tar.xz"])
def test_bombs_are_refused(
    made: Callable[[dict[str, bytes]], bytes], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "SLACK", 1 << 20)
    bomb = written(tmp_path / "a", made({"train/a/1.png": bytes(3 << 20), "train/b/1.png": bytes(3 << 20)}))
    assert "unsafe archive: it extracts to more than 20 times its size plus 1 MiB (if you trust it" in refusal(bomb)
    assert unpacked(cache) == []


def test_links_to_files_of_the_archive_become_files(tmp_path: Path, cache: Path) -> None:
    more = (
        special("train/ants/hard.png", tarfile.LNKTYPE, "train/ants/1.png"),
        special("train/bees/soft.png", tarfile.SYMTYPE, "../ants/1.png"),
    )
    splits = Archive(written(tmp_path / "a.tar", tarred(more=more))).load()
    assert "train/ants/hard.png" in names(splits)
    assert "train/bees/soft.png" in names(splits)
    assert not any(path.is_symlink() for path in cache.rglob("*"))


@pytest.mark.parametrize(
    "content",
    [
        zipped()[:-30],
        tarred()[:3000],
        tarred()[: 1024 * 4],
        tarred(mode="w:gz")[:-20],
        tarred(mode="w:xz")[:-20],
        b"\x1f\x8b" + bytes(50),
        b"PK\x03\x04" + bytes(50),
    ],
)
def test_an_archive_that_is_cut_short_is_refused(content: bytes, tmp_path: Path, cache: Path) -> None:
    assert "truncated" in refusal(written(tmp_path / "a", content))
    assert unpacked(cache) == []


def test_a_broken_byte_is_noticed(tmp_path: Path) -> None:
    content = bytearray(zipped())
    content[content.index(b"IDAT") if b"IDAT" in content else 60] ^= 0xFF
    assert "the archive is damaged" in refusal(written(tmp_path / "a.zip", bytes(content)))


def test_an_encrypted_archive_is_reported(tmp_path: Path) -> None:
    content = bytearray(zipped())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := content.find(signature, place + 1)) >= 0:
            content[place + offset] |= 1
    assert "the archive is encrypted (extract it yourself" in refusal(written(tmp_path / "a.zip", bytes(content)))


def test_a_full_or_forbidden_cache_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(written(tmp_path / "file", b"") / "cache"))
    with pytest.raises(FtkitError, match=r"file/cache: Not a directory \(free disk space in .*set FTKIT_CACHE_DIR\)"):
        Archive(written(tmp_path / "a.zip", zipped())).load()


def test_a_missing_archive_is_one_line(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a.zip").startswith(f"no archive {tmp_path / 'a.zip'} (")


# The command line


def test_data_takes_archives_and_addresses(server: Server, tmp_path: Path, run_ftkit: RunFtkit) -> None:
    content = tarred(mode="w:gz")
    url = server.give("/download", content)
    env = {"FTKIT_CACHE_DIR": str(tmp_path / "cache"), "no_proxy": "127.0.0.1"}
    shown = run_ftkit("plan", "--json", "--data", url, "--weights", "none", cwd=tmp_path, env=env)
    assert shown.returncode == 0, shown.stderr
    plan = json.loads(shown.stdout)
    assert plan["data"] == {"train": 2, "val": 2}
    assert hashlib.sha256(content).hexdigest() in " ".join(plan["notes"])
    written(tmp_path / "a.tgz", content)
    shown = run_ftkit("config", "show", "--data", "a.tgz", cwd=tmp_path, env=env)
    assert f"source: {tmp_path / 'a.tgz'}" in shown.stdout
    refused = run_ftkit("plan", "--data", "ftp://x/y.zip", cwd=tmp_path, env=env)
    assert refused.returncode == 2
    assert "only http and https URLs are supported" in refused.stderr


def test_init_sets_a_project_up_for_an_archive(server: Server, tmp_path: Path, run_ftkit: RunFtkit) -> None:
    url = server.give("/a.zip", zipped({f"all/{name}": content for name, content in FOUR.items()}))
    env = {"FTKIT_CACHE_DIR": str(tmp_path / "cache"), "no_proxy": "127.0.0.1"}
    made = run_ftkit("init", "from-url", "--data", url, cwd=tmp_path, env=env)
    assert made.returncode == 0, made.stderr
    assert f"found {url}: 2 classes; train 2, val 2 images" in made.stdout
    assert f'  source: "{url}"' in (tmp_path / "from-url" / "ftkit.yaml").read_text(encoding="utf-8")
    written(tmp_path / "b.zip", zipped())
    made = run_ftkit("init", "from-file", "--data", "b.zip", cwd=tmp_path, env=env)
    assert made.returncode == 0, made.stderr
    assert f'source: "{tmp_path / "b.zip"}"' in (tmp_path / "from-file" / "ftkit.yaml").read_text(encoding="utf-8")
    checked = run_ftkit("config", "validate", cwd=tmp_path / "from-file", env=env)
    assert checked.returncode == 0, checked.stderr
