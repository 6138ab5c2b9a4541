"""Plugins of other people: found, isolated, listed, checked, switched off; a broken one harms nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.broken_plugins import BROKEN, GOOD, HEAD, install
from tests.sessions import environment, session

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of packages that the commands of a test find installed."""
    return tmp_path / "site"


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n == "hangs" else n for n in BROKEN])
def test_core_commands_work_beside_a_broken_plugin_whose_fault_is_reported_once(name: str, site: Path) -> None:
    broken = BROKEN[name]
    install(site, name, broken)
    shown, listed, plugins, asked, without = session(
        site,
        "strategies show gradual",
        "strategies list",
        "plugins list --json",
        f"strategies show {name}/even",
        f"strategies list -p no:{name}",
    )
    assert (shown.code, shown.err) == (0, ""), "what isn't asked for isn't loaded"
    assert listed.code == 0
    assert "gradual" in listed.out
    assert listed.err.count(broken.says) == 1
    assert len(listed.err.splitlines()) == 1 or "hello" in listed.err
    assert (asked.code, asked.out) == (2, "")
    assert broken.says in asked.err
    assert "Traceback" not in listed.err + asked.err
    assert (without.code, without.err, without.out) == (0, "", without.out)
    (facts,) = json.loads(plugins.out)
    assert (facts["name"], facts["package"], facts["version"]) == (name, f"ftkit-{name}", "1.0")
    if broken.lists:
        assert (facts["state"], facts["provides"]) == ("faulty", {"strategies": 1})
        assert broken.says in facts["faults"][0]
    else:
        assert facts["state"] == "broken"
        assert broken.says in facts["reason"]
        assert f"-p no:{name}" in listed.err


def test_a_run_trains_beside_all_of_them_at_once(site: Path, tmp_path: Path) -> None:
    for name, broken in BROKEN.items():
        if not name.startswith("hangs"):
            install(site, name, broken)
    install(site, "good", GOOD)
    command = "train --strategy good/even --epochs 1 --train-samples 50 --no-probe --weights none -q --json"
    done = subprocess.run(
        [sys.executable, "-m", "ftkit", *command.split()],
        cwd=tmp_path,
        env=environment(site),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["best"]["epoch"] == 1


def test_a_good_plugin_is_listed_used_checked_and_switched_off(site: Path) -> None:
    install(site, "good", GOOD)
    listed, shown, checked, off, none, variable = session(
        site,
        "plugins list",
        "strategies show good/even",
        "plugins doctor good",
        "strategies show good/even -p no:good",
        "plugins list --no-plugins --json",
        "strategies show good/even",
    )
    assert listed.out.splitlines()[1].split() == ["good", "ftkit-good", "1.0", "ok", "1", "strategy"]
    assert shown.out.startswith("good/even, from plugin good (ftkit-good 1.0)")
    assert (checked.code, checked.err) == (0, "")
    assert [line.split()[0] for line in checked.out.splitlines()] == ["ok", "ok"]
    assert off.code == 2
    assert "plugin 'good' is disabled" in off.err
    assert [facts["state"] for facts in json.loads(none.out)] == ["disabled"]
    assert variable.code == 0
    (variable,) = session(site, "strategies show good/even", FTKIT_DISABLE_PLUGINS="other,good")
    assert variable.code == 2


ODD = {
    "return {groups[-1]: 1.0 + self.seen()}": "lr_scales",
    "raise RequestError('never', 'not at all')": "it refuses every length",
    "return {'no-such-group': 1.0}": "no-such-group",
}
"""Rules that break the contract, and what the doctor says of them."""


@pytest.mark.long
def test_doctor_finds_strategies_that_break_their_contract(site: Path) -> None:
    for number, rule in enumerate(ODD):
        source = HEAD + (
            "from ftkit.api import RequestError\n"
            "@dataclass(frozen=True)\nclass Odd(Strategy):\n    calls = []\n"
            "    def seen(self):\n        self.calls.append(1)\n        return len(self.calls)\n"
            f"    def lr_scales(self, epoch, epochs, groups):\n        {rule}\n"
            "@hookimpl\ndef ftkit_strategies():\n    return {'odd': Odd, 'even': Even}\n"
        )
        install(site, f"odd{number}", source)
    results = session(site, *(f"plugins doctor odd{number}" for number in range(len(ODD))))
    for number, (answer, says) in enumerate(zip(results, ODD.values(), strict=True)):
        assert answer.code == 1
        assert f"plugin 'odd{number}': 1 of 3 checks failed" in answer.err
        assert f"FAIL   strategy odd{number}/odd" in answer.out
        assert says in answer.out
        assert f"ok     strategy odd{number}/even" in answer.out


def test_two_packages_of_one_name_are_reported_and_the_first_is_used(site: Path) -> None:
    install(site, "twin", GOOD, package="ftkit-twin")
    install(site, "twin", GOOD.replace("'even'", "'other'"), package="twin-of-another")
    listed, shown = session(site, "strategies list", "strategies show twin/even")
    assert listed.err.count("another plugin of that name") == 1
    assert shown.code == 0


def test_strict_mode_stops_at_the_first_fault(site: Path) -> None:
    install(site, "raises", BROKEN["raises"])
    strict, variable, help_page = session(
        site, "strategies show gradual --strict-plugins", "strategies show gradual", "--help", FTKIT_STRICT_PLUGINS=""
    )
    assert strict.code == 1
    assert "no licence found" in strict.err
    assert (variable.code, help_page.code) == (0, 0)


COMMANDS = HEAD + (
    "import typer\n"
    "def push(place: str, force: bool = False) -> None:\n    '''Send a model somewhere.'''\n"
    "    print('pushed to', place, force)\n"
    "@hookimpl\ndef ftkit_commands():\n    return {'push': push}\n"
)


def test_a_plugins_commands_are_in_the_help_without_importing_it(site: Path) -> None:
    install(site, "hub", COMMANDS)
    install(site, "raises", BROKEN["raises"])
    install(site, "good", GOOD)
    help_page, own, pushed, wrong, none, broken, unknown = session(
        site,
        "--help",
        "hub --help",
        "hub push shelf --force",
        "hub push shelf --forse",
        "good",
        "raises",
        "hubb",
        COLUMNS="200",
    )
    assert "For a test. (ftkit-hub)" in help_page.out
    assert help_page.err == ""
    assert "Send a model somewhere." in own.out
    assert (pushed.code, pushed.out) == (0, "pushed to shelf True\n")
    assert (wrong.code, wrong.err.splitlines()[0]) == (2, "error: no such option --forse")
    assert none.code == 2
    assert "plugin 'good' provides no command, only 1 strategy" in none.err
    assert broken.code == 2
    assert "no licence found" in broken.err
    assert "did you mean 'hub'?" in unknown.err


def test_help_imports_no_plugin(site: Path) -> None:
    install(site, "loud", "import sys\nprint('LOADED', file=sys.stderr)\n" + GOOD)
    for answer in session(site, "--help", "init --help", "strategies show gradual", "backbones show resnet18"):
        assert answer.code == 0
        assert "LOADED" not in answer.err


def test_p_wants_no_and_a_name(site: Path) -> None:
    site.mkdir()
    (answer,) = session(site, "strategies list -p good")
    assert (answer.code, answer.err.splitlines()[0]) == (2, "error: -p good: not no:NAME")


def test_the_schema_is_written_beside_a_class_that_cannot_be_described(site: Path) -> None:
    odd = HEAD.replace("class Even(Strategy):", "class Even(Strategy):\n    size: 'Unheard' = 3")
    install(site, "odd", odd + "@hookimpl\ndef ftkit_strategies():\n    return {'even': Even}\n")
    install(site, "good", GOOD)
    (answer,) = session(site, "config schema")
    assert answer.code == 0
    assert "good/even" in answer.out
    assert "odd/even" not in answer.out
    assert answer.err.count("odd/even") == 1


LISTENER = """
import json
from ftkit.api import hookimpl

def write(run, **facts):
    with open(run / "heard.jsonl", "a") as file:
        file.write(json.dumps(facts) + "\\n")

@hookimpl
def ftkit_run_start(run, plan):
    write(run, hook="start", backbone=plan["backbone"])

@hookimpl
def ftkit_epoch_end(run, record):
    write(run, hook="epoch", epoch=record["epoch"])
    raise RuntimeError("the phone is dead")

@hookimpl
def ftkit_run_end(run, status, record, error):
    write(run, hook="end", status=status, best=record and record["epoch"], error=error)
    raise SystemExit(4)
"""


def heard(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "heard.jsonl").read_text().splitlines()]


def test_a_listener_hears_of_a_run_and_its_errors_stop_nothing(site: Path, tmp_path: Path) -> None:
    install(site, "bell", LISTENER)
    settings = "--train-samples 50 --no-probe --weights none --epochs 2 --strategy scratch --workers 0"
    done, failed = session(
        site, f"train --name done {settings}", f"train --name failed {settings} --lr 1e30 --optimizer sgd"
    )
    assert done.code == 0
    log = (tmp_path / "runs" / "done" / "train.log").read_text()
    assert log.count("plugin 'bell' failed in ftkit_epoch_end: RuntimeError: the phone is dead") == 1
    assert log.count("plugin 'bell' failed in ftkit_run_end: SystemExit: 4") == 1
    start, first, second, end = heard(tmp_path / "runs" / "done")
    assert start == {"hook": "start", "backbone": "lenet"}
    assert [first["epoch"], second["epoch"]] == [1, 2]
    assert (end["status"], end["error"]) == ("done", None)
    assert end["best"] in (1, 2)
    assert failed.code == 1
    last = heard(tmp_path / "runs" / "failed")[-1]
    assert (last["hook"], last["status"], last["best"]) == ("end", "failed", None)
    assert "the loss is" in str(last["error"])


def test_what_a_plugin_offers_is_listed_only_when_everything_is(site: Path) -> None:
    source = (
        HEAD + "class Items(dict):\n"
        "    def __iter__(self):\n        print('listing')\n        return super().__iter__()\n"
        "    def __contains__(self, name):\n        return name in ('even', 'evener')\n"
        "    def __getitem__(self, name):\n        return Even\n"
        "@hookimpl\ndef ftkit_strategies():\n    return Items(even=Even)\n"
    )
    install(site, "shy", source)
    plan = "plan --dataset digits --backbone lenet --strategy shy/evener --json"
    hidden, listed = session(site, plan, "strategies list")
    assert hidden.code == 0
    assert "listing" not in hidden.err
    assert "shy/evener" in hidden.out
    assert listed.err == "listing\n", "what a plugin prints goes to stderr"
    assert "shy/even " in listed.out
    assert "shy/evener" not in listed.out


def test_a_plugin_that_is_not_installed_is_named_and_not_taken_for_another(site: Path) -> None:
    install(site, "good", GOOD)
    away, typo, builtin = session(
        site, "strategies show hf/even", "strategies show goood/even", "strategies show zzz/gradual"
    )
    assert [answer.code for answer in (away, typo, builtin)] == [2, 2, 2]
    assert "no plugin 'hf' is installed; a package that brings it is called ftkit-hf" in away.err
    assert "did you mean 'good/even'?" in typo.err
    assert "a package that brings it is called ftkit-zzz" in builtin.err
