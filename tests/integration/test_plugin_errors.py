"""What a plugin's code raises ends as one line: the plugin, the part, the item, the error and its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ftkit
from ftkit.errors import FtkitError
from tests.conftest import typed
from tests.foreign_parts import PLUGIN, foreign_project

OPEN = "        from ftkit.testing import draw_image\n"
LOAD = "        def split(name, count):\n"
FORWARD = "            return self.classify_it"
BUILD = "    from torch import nn\n\n    class"
ROW = "        return {groups[-1]: 1.0} if"
PLAIN = "train -q --weights none --no-probe --no-cache"
ODD = "raise type('Odd', (BaseException,), {})"
FAULTS: dict[str, tuple[str, str, str, str]] = {
    "load": (LOAD, "        1 / 0\n", "plan", "in load of dataset 'foreign/drawn': ZeroDivisionError"),
    "load exits": (LOAD, "        exit()\n", "plan", "in load of dataset 'foreign/drawn': SystemExit"),
    "load without words": (
        LOAD,
        "        raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})()\n",
        "plan",
        "E: its text is not available",
    ),
    "open": (OPEN, "        if index == 3: {}['key']\n", "train -q", "in opening train-3 of dataset"),
    "open in a process": (OPEN, "        if index == 3: {}['key']\n", f"{PLAIN} --workers 2", "in opening train-3 of"),
    "open, bad images skipped": (
        OPEN,
        "        if index == 3: {}['key']\n",
        f"{PLAIN} --on-bad-image skip --workers 1",
        "in opening train-3 of dataset 'foreign/drawn': KeyError: 'key'",
    ),
    "open of the validation split": (
        OPEN,
        "        if len(self.kinds) == 8: raise OSError('')\n",
        f"{PLAIN} --workers 1",
        "in opening val-0 of dataset 'foreign/drawn': OSError (",
    ),
    "open exits": (OPEN, "        exit(3)\n", f"{PLAIN} --workers 1", ": SystemExit: 3"),
    "open, no exception": (OPEN, f"        {ODD}('a\\n\\nb')\n", f"{PLAIN} --workers 1", ": Odd: a b"),
    "open gives no image": (OPEN, "        return 3\n", PLAIN, "it returned int, not a PIL image"),
    "open raises Ctrl-C": (OPEN, "        raise KeyboardInterrupt\n", PLAIN, "in the run: KeyboardInterrupt ("),
    "open calls itself": (OPEN, "        return self(index)\n", PLAIN, "RecursionError: maximum recursion depth"),
    "open without memory": (OPEN, "        raise MemoryError\n", PLAIN, "of dataset 'foreign/drawn': MemoryError"),
    "build": (BUILD, "    raise ValueError('no net')\n", "train -q", "in building backbone 'foreign/net': Value"),
    "forward": (
        FORWARD,
        "            if self.training: raise AttributeError('oops')\n",
        PLAIN,
        "in training on images of 3x16x16: AttributeError: oops (plugin 'foreign', ",
    ),
    "forward, late": (
        FORWARD,
        "            self.seen = getattr(self, 'seen', 0) + self.training * len(images)\n"
        "            if self.seen > 40: raise AttributeError('oops')\n",
        PLAIN,
        "in the run, at epoch 2, step ",
    ),
    "lr_scales": (ROW, "        if epoch: raise AssertionError\n", "plan", "in lr_scales(1, 2, ...) of strategy '"),
    "weights": (
        "    torch.manual_seed(0)",
        "    raise OSError(2, 'no', 'w.pt')\n",
        "train -q",
        "load of weights 'DRAWN'",
    ),
}
"""By what fails: before which line of the plugin, which lines, the command, and a part of what it says."""


@pytest.mark.parametrize("fault", FAULTS)
def test_the_line_names_the_plugin_the_part_and_the_item(fault: str, tmp_path: Path) -> None:
    line, before, command, says = FAULTS[fault]
    assert PLUGIN.count(line) == 1
    folder = foreign_project(tmp_path / "p", PLUGIN.replace(line, before + line))
    done = typed(*command.split(), cwd=folder)
    assert done.returncode == 1, done.stdout
    error, *rest = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert not rest
    assert "plugin 'foreign'" in error
    assert says in error
    place = re.search(r"foreign\.py:(\d+), in \w+\)$", error)
    assert place or "it returned int" in says
    assert "internal error" not in done.stderr
    assert "Traceback" not in done.stderr


PNG = "        import io; from PIL import Image; file = io.BytesIO(); Image.new('RGB', (64, 64)).save(file, 'PNG')\n"
LATE = {
    "cut short": f"{PNG}        return Image.open(io.BytesIO(file.getvalue()[:-30]))\n",
    "closed": f"{PNG}        image = Image.open(file); image.close(); return image\n",
    "no pixels": "        from PIL import Image; return Image.new('RGB', (0, 5))\n",
}


@pytest.mark.parametrize("fault", LATE)
def test_images_that_pil_reads_late_are_unreadable(fault: str, tmp_path: Path) -> None:
    only = "        if index == 3 and len(self.kinds) == 24:\n"
    lines = "".join(f"    {line}\n" for line in LATE[fault].splitlines())
    folder = foreign_project(tmp_path / "p", PLUGIN.replace(OPEN, only + lines + OPEN))
    done = typed("train", "-q", cwd=folder)
    assert done.returncode == 1
    assert "error: train-3: can't be read: " in done.stderr
    done = typed(*PLAIN.split(), "--on-bad-image", "skip", "--epochs", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "train-3" in next(folder.glob("runs/*/bad-images.jsonl")).read_text()


def test_a_network_with_lazy_layers_is_refused(tmp_path: Path) -> None:
    lazy = "    from torch import nn\n    return nn.Sequential(nn.LazyConv2d(6, 3), nn.Flatten(), nn.LazyLinear(2))\n"
    folder = foreign_project(tmp_path / "p", PLUGIN.replace(BUILD, lazy + BUILD))
    for command in (PLAIN, "plan"):
        done = typed(*command.split(), cwd=folder)
        assert done.returncode == 1
        assert "backbone 'foreign/net' returned a network whose 0.weight has no shape yet" in done.stderr


METHODS = {
    "adapt": "def adapt(self, model, backbone):",
    "merged": "def merged(self, model):",
    "save_extra": "def save_extra(self, model, folder):",
    "groups": "def groups(self, backbone):",
}


@pytest.mark.parametrize("method", METHODS)
def test_the_methods_of_a_strategy_are_named(method: str, tmp_path: Path) -> None:
    late = "    def lr_scales("
    folder = foreign_project(
        tmp_path / "p", PLUGIN.replace(late, f"    {METHODS[method]}\n        raise IndexError('x')\n\n{late}")
    )
    done = typed(*PLAIN.split(), cwd=folder)
    assert done.returncode == 1
    assert f"{method}" in done.stderr.partition("of strategy 'foreign/late': IndexError: x")[0]
    assert f", in {method})" in done.stderr


def test_debug_shows_the_traceback_of_a_worker(tmp_path: Path) -> None:
    folder = foreign_project(tmp_path / "p", PLUGIN.replace(OPEN, "        {}['key']\n" + OPEN))
    done = typed(*f"{PLAIN} --workers 1 --debug".split(), cwd=folder)
    assert "Traceback" in done.stderr
    assert "{}['key']" in done.stderr


def test_a_request_error_of_the_plugins_own_is_shown_unchanged(tmp_path: Path) -> None:
    raises = "        from ftkit.api import RequestError\n        raise RequestError('no key', 'set LEAVES_KEY')\n"
    folder = foreign_project(tmp_path / "p", PLUGIN.replace(OPEN, raises + OPEN))
    for workers in (0, 1):
        done = typed(*f"{PLAIN} --workers {workers} --name w{workers}".split(), cwd=folder)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-2:] == ["error: no key", "hint: set LEAVES_KEY"]


def test_evaluate_and_predict_name_the_plugin_too(tmp_path: Path) -> None:
    folder = foreign_project(tmp_path / "p")
    assert typed(*f"{PLAIN} --epochs 1 --name a".split(), cwd=folder).returncode == 0
    (folder / "foreign.py").write_text(PLUGIN.replace(FORWARD, "            exit(0)\n" + FORWARD))
    import sys

    del sys.modules["foreign"]
    done = typed("evaluate", "a", cwd=folder)
    assert done.returncode == 1, "an exit(0) in a network is no success"
    assert "plugin 'foreign' failed" in done.stderr
    assert "foreign.py:19, in forward" in done.stderr


def test_the_library_raises_an_error_that_has_the_plugins_own_as_cause(tmp_path: Path) -> None:
    folder = foreign_project(tmp_path / "p", PLUGIN.replace(OPEN, "        {}['key']\n" + OPEN))
    plan = ftkit.plan(folder / "ftkit.yaml", workers=0, output=str(tmp_path), probe=False, cache={"use": False})
    with pytest.raises(FtkitError, match="in opening train-") as caught:
        ftkit.train(plan)
    assert isinstance(caught.value.__cause__, KeyError)


COMMANDS = '''
import sys
import typer
from ftkit.api import hookimpl, RequestError


def go(how: str, times: int = 1) -> None:
    """Ends in one of several ways."""
    if how == "raises":
        raise KeyError("shelf")
    if how == "request":
        raise RequestError("no shelf", "name one")
    if how == "exit":
        sys.exit(times)
    if how == "text":
        sys.exit("that is all")
    if how == "typer":
        raise typer.Exit(times)
    if how == "parameter":
        raise typer.BadParameter("not so")
    open("nowhere/at/all")


@hookimpl
def ftkit_commands():
    return {"go": go}
'''


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("raises", 1, "error: plugin 'foreign' failed in command 'go': KeyError: 'shelf' ("),
        ("request", 2, "error: no shelf"),
        ("exit", 5, ""),
        ("text", 1, "that is all"),
        ("typer", 5, ""),
        ("parameter", 2, "not so"),
        ("file", 1, "plugin 'foreign' failed in command 'go': FileNotFoundError: [Errno 2]"),
    ],
)
def test_the_commands_of_a_plugin(how: str, code: int, says: str, tmp_path: Path) -> None:
    folder = foreign_project(tmp_path / "p", COMMANDS, "plugins: [./foreign.py]\n")
    done = typed("foreign", "go", how, "--times", "5", cwd=folder)
    assert done.returncode == code
    assert says in done.stderr
    assert "internal error" not in done.stderr
