"""The program as a whole: help, imports, exit codes, and error messages."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ftkit.cli.main import main
from ftkit.errors import FtkitError
from tests.conftest import typed

HEAVY = ("torch", "torchvision", "numpy", "accelerate", "pydantic", "sklearn", "PIL", "yaml", "pluggy")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ftkit(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return typed(*arguments, env=env)


# Help


def test_help_imports_nothing_heavy_and_no_command() -> None:
    script = (
        "import sys\nfrom ftkit.cli.main import main\n"
        "try: code = main(['--help'])\nexcept SystemExit as stop: code = stop.code\n"
        f"loaded = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "loaded += [m for m in sys.modules if m.startswith('ftkit.') and m not in "
        "('ftkit.cli', 'ftkit.cli.main', 'ftkit.cli.command_table', 'ftkit.cli.error_messages', 'ftkit.cli.signals', "
        "'ftkit.cli.output', 'ftkit.cli.output', 'ftkit.cli.output.console', 'ftkit.cli.output.streams', "
        "'ftkit.cli.switches', "
        "'ftkit.errors', 'ftkit.plugins', 'ftkit.plugins.discovery', "
        "'ftkit.distributed', 'ftkit.distributed', 'ftkit.distributed.launch_env')]\n"
        "print('code', code, 'loaded', loaded)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "code 0 loaded []"
    assert "train" in done.stdout


def test_version() -> None:
    import ftkit as library

    done = ftkit("--version")
    assert (done.returncode, done.stdout) == (0, f"ftkit {library.__version__}\n")


def test_completion_offers_commands_and_names() -> None:
    def complete(words: str, at: int) -> list[str]:
        done = ftkit(_FTKIT_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(at))
        return sorted(done.stdout.split())

    assert complete("ftkit tr", 1) == ["train"]
    assert complete("ftkit config show --backbone resnet1", 4) == ["resnet101", "resnet152", "resnet18"]
    assert complete("ftkit config show --precision b", 4) == ["bf16"]
    assert complete("ftkit curves show one", 3) == ["one-cycle"]


# Mistakes

SHOW = "config show "

MISTAKES = [
    ("trian", ["unknown command 'trian'", "did you mean 'train'?"]),
    ("fit", ["unknown command 'fit'", "did you mean 'train'?"]),
    ("config shwo", ["'shwo'", "show"]),
    ("--verson", ["no such option --verson", "did you mean --version?"]),
    (SHOW + "--learning-rate 1", ["no such option --learning-rate", "did you mean --lr?"]),
    (SHOW + "--lr0=1", ["no such option --lr0", "did you mean --lr?"]),
    (SHOW + "--batch_size 3", ["no such option --batch_size", "did you mean --batch-size?"]),
    (SHOW + "--num_train_epochs 3", ["--num_train_epochs", "did you mean --epochs?"]),
    (SHOW + "--imgsz 64", ["--imgsz", "did you mean --image-size?"]),
    (SHOW + "-j 4", ["no such option -j", "did you mean --workers?"]),
    (SHOW + "--epoch 3", ["no such option --epoch", "did you mean --epochs?"]),
    (SHOW + "--lr", ["'--lr' requires an argument"]),
    (SHOW + "extra", ["unexpected argument 'extra'", "see ftkit config show --help"]),
    (SHOW + "--keep-head=1", ["'--keep-head' does not take a value"]),
    (SHOW + "--epochs three", ["--epochs: must be a whole number, not 'three'"]),
    (SHOW + "--epochs -1", ["--epochs: must be 0 or more"]),
    (SHOW + "--precision fp8", ["--precision: must be one of auto, fp32, bf16, fp16, not 'fp8'"]),
    (SHOW + "--backbone resnt18", ["--backbone: unknown backbone 'resnt18'", "did you mean 'resnet18'?"]),
    (SHOW + "--dataset mnits", ["--dataset: unknown dataset 'mnits'", "'mnist'"]),
    (SHOW + "--strategy grdual", ["--strategy: unknown strategy 'grdual'", "did you mean 'gradual'?"]),
    (SHOW + "--optimizer lion", ["--optimizer: unknown optimizer 'lion'", "known: adadelta"]),
    (SHOW + "--data nowhere", ["--data nowhere: no such file or folder", "give a folder of images"]),
    (SHOW + "--data file.txt", ["--data file.txt: not a folder, a .csv file, or a zip or tar archive"]),
    (SHOW + "--data . --dataset mnist", ["--data and --dataset: give one of them", "--set dataset.root=FOLDER"]),
    (SHOW + "--dataset folder", ["dataset.root: missing, give it with --set dataset.root=PATH"]),
    (SHOW + "--set strategy.dcay=1", ["--set strategy.dcay: unknown key, did you mean 'decay'?"]),
    (SHOW + "--set optmizer.lr=1", ["--set optmizer.lr: unknown key, did you mean 'optimizer'?"]),
    (SHOW + "--set epochs", ["--set epochs: not KEY=VALUE", "--set optimizer.lr=0.01"]),
    (SHOW + "-c no.yaml", ["no.yaml: no such file", "ftkit init"]),
    (SHOW + "-c ' '", ["' ': no such file, and --config (-c) names it"]),
    (SHOW + "-c bad.yaml", ["bad.yaml:2: [/x]: unknown key"]),
    (SHOW + "-c broken.yaml", ["broken.yaml:1: not valid YAML"]),
    (SHOW + "--data ''", ["--data is empty", "a shell variable may be unset"]),
    (SHOW + "-c ''", ["-c is empty"]),
    (SHOW + "--output=", ["--output is empty"]),
    ("predict ''", ["an argument is empty"]),
    ("config validate", ["no ftkit.yaml in this folder", "ftkit config validate FILE"]),
    ("config schema --output no/where.json", ["no/where.json: No such file or directory"]),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_a_mistake_is_one_error_with_a_hint(line: str, message: list[str], folder: Path) -> None:
    (folder / "file.txt").write_text("x")
    (folder / "bad.yaml").write_text("epochs: 1\n'[/x]': 1\n")
    (folder / "broken.yaml").write_text("epochs: ]\n")
    done = ftkit(*shlex.split(line))
    assert done.returncode == (1 if "schema" in line else 2)
    assert done.stdout == ""
    for part in message:
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert "\033" not in done.stderr
    assert [entry.split(":")[0] for entry in done.stderr.splitlines()] in (["error"], ["error", "hint"])


def test_an_unknown_variable_is_an_error() -> None:
    done = ftkit("config", "show", FTKIT_EPOCS="3")
    assert done.returncode == 2
    assert done.stderr == "error: FTKIT_EPOCS: unknown variable\nhint: did you mean FTKIT_EPOCHS?\n"


@pytest.mark.parametrize(
    "arguments", [("--debug", "config", "show", "--epochs", "x"), ("config", "show", "--epochs", "x", "--debug")]
)
def test_debug_shows_the_traceback_in_any_position(arguments: tuple[str, ...]) -> None:
    done = ftkit(*arguments)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "error: --epochs: must be a whole number, not 'x'"


def test_debug_is_read_from_the_environment() -> None:
    assert "Traceback" in ftkit("trian", FTKIT_DEBUG="1").stderr
    assert "Traceback" not in ftkit("trian", FTKIT_DEBUG="0").stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (FtkitError("it broke [/x]", "mend it"), 1, "error: it broke [/x]\nhint: mend it\n"),
        (OSError(28, "No space left on device", "/runs/a"), 1, "error: /runs/a: No space left on device\nhint: free"),
        (OSError(30, "Read-only file system", "/runs/a"), 1, "error: /runs/a: Read-only file system\nhint: check"),
        (MemoryError(), 1, "error: out of memory\nhint: lower --batch-size;"),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 1 GiB"),
            1,
            "error: out of memory: could not allocate 20.00 MiB\n",
        ),
        (
            RuntimeError(
                "[fail at alloc.cpp:1] can't allocate memory: you tried to allocate 3360 bytes. Error code 12"
            ),
            1,
            "error: out of memory: could not allocate 3360 bytes\n",
        ),
        (KeyError("lost"), 1, "error: internal error: KeyError: 'lost'\nhint: run it again with --debug"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_every_error_has_a_message_and_an_exit_code(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr("ftkit.cli.main.load_command", fail)
    assert main(["train"]) == code
    assert capsys.readouterr().err.startswith(message)


def test_a_closed_pipe_prints_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ftkit", "config", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1
