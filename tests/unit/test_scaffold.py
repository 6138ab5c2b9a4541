"""Templates: what is filled in, and that a folder gets all of the files or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftkit.errors import FtkitError, RequestError
from ftkit.project import rendering
from ftkit.project.create import project_name

FILES = {Path("ftkit.yaml"): b"epochs: 3\n", Path("tests/test_it.py"): b"", Path("plug.py"): b"new"}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("text", "package", "module"),
    [
        ("my-project", "my-project", "my_project"),
        ("My Ants & Bees", "my-ants-bees", "my_ants_bees"),
        ("Käfer.v2", "kafer-v2", "kafer_v2"),
        ("2024_leaves", "project-2024-leaves", "project_2024_leaves"),
        ("__x__", "x", "x"),
    ],
)
def test_a_folder_name_becomes_a_package_name(text: str, package: str, module: str, tmp_path: Path) -> None:
    name = project_name(text, tmp_path)
    assert (name.package, name.module) == (package, module)


@pytest.mark.parametrize("text", ["torch", "json", "test", "tests", "ftkit", "class", "FTKIT"])
def test_a_name_that_means_something_else_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is taken"):
        project_name(text, tmp_path)


@pytest.mark.parametrize("text", ["", "...", "日本"])
def test_a_name_without_ascii_letters_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no letters or digits"):
        project_name(text, tmp_path)


def test_a_name_that_is_only_in_the_current_folder_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaves.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert project_name("leaves", tmp_path / "leaves").module == "leaves"


def test_render_fills_in_names_and_jinja_files_and_copies_the_rest(tmp_path: Path) -> None:
    (tmp_path / "{{module}}").mkdir()
    (tmp_path / "{{module}}" / "a.py.jinja").write_text("x = '{{ module }}'  # {not} {{module}}\n")
    (tmp_path / "raw.txt").write_bytes(b"{{module}}\xff\r\n")
    assert rendering.render(tmp_path, {"module": "ants", "unused": ""}) == {
        Path("raw.txt"): b"{{module}}\xff\r\n",
        Path("ants/a.py"): b"x = 'ants'  # {not} ants\n",
    }


def test_a_value_is_never_filled_in_again(tmp_path: Path) -> None:
    (tmp_path / "a.jinja").write_text("{{first}}")
    assert rendering.render(tmp_path, {"first": "{{second}}", "second": "no"}) == {Path("a"): b"{{second}}"}


def test_a_template_that_asks_for_something_unknown_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jinja").write_text("{{modul}}")
    with pytest.raises(FtkitError, match=r"a\.jinja: unknown placeholder 'modul'"):
        rendering.render(tmp_path, {"module": "ants"})


@pytest.mark.parametrize("target", ["new", "deep/er/new", "empty"])
def test_all_files_are_written_and_nothing_else(target: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert rendering.write_files(FILES, tmp_path / target) == []
    assert tree(tmp_path / target) == {"ftkit.yaml": b"epochs: 3\n", "plug.py": b"new", "tests/test_it.py": b""}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted({"empty", target.split("/")[0]})


def test_files_that_are_there_are_overwritten_and_others_kept(tmp_path: Path) -> None:
    (tmp_path / "plug.py").write_bytes(b"old")
    (tmp_path / "mine.txt").write_bytes(b"mine")
    assert rendering.write_files(FILES, tmp_path) == [Path("plug.py")]
    assert tree(tmp_path) == {
        "ftkit.yaml": b"epochs: 3\n",
        "mine.txt": b"mine",
        "plug.py": b"new",
        "tests/test_it.py": b"",
    }


@pytest.mark.parametrize("breaks_at", [1, 2, 3, 4])
def test_a_failure_while_moving_in_puts_everything_back(
    breaks_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plug.py").write_bytes(b"old")
    rename, calls = Path.rename, 0

    def breaking(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == breaks_at:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", breaking)
    with pytest.raises(FtkitError, match="No space left on device"):
        rendering.write_files(FILES, tmp_path)
    assert calls == breaks_at
    assert tree(tmp_path) == {"plug.py": b"old"}
    assert [p.name for p in tmp_path.iterdir()] == ["plug.py"]


def test_a_failure_leaves_no_new_folder_and_no_parents(tmp_path: Path) -> None:
    too_long = {Path("a.txt"): b"a", Path("x" * 300): b""}
    with pytest.raises(FtkitError, match="File name too long"):
        rendering.write_files(too_long, tmp_path / "one" / "two")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("there", "printed"), [("plug.py/x", "is a folder where"), ("tests", "is a file where")])
def test_a_file_and_a_folder_of_one_name_are_distinguished(there: str, printed: str, tmp_path: Path) -> None:
    path = tmp_path / there
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"mine")
    with pytest.raises(RequestError, match=printed):
        rendering.write_files(FILES, tmp_path)
    assert tree(tmp_path) == {there: b"mine"}


def test_a_folder_with_something_in_it_is_refused_and_names_it(tmp_path: Path) -> None:
    for name in "abcdefg":
        (tmp_path / name).touch()
    with pytest.raises(RequestError, match=r"is not empty: a, b, c, d, e and 2 more \(.*--force"):
        rendering.check_target(tmp_path, force=False)
    rendering.check_target(tmp_path, force=True)


def test_a_fresh_repository_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    rendering.check_target(tmp_path, force=False)


@pytest.mark.parametrize("force", [False, True])
def test_a_file_or_a_broken_link_is_no_target(force: bool, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises(RequestError, match="exists and is not a folder"):
            rendering.check_target(tmp_path / name, force)
