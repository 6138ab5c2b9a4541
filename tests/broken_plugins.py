"""Plugins with one thing wrong each, and a place to install them without pip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HEAD = """
from dataclasses import dataclass
from ftkit.api import Strategy, hookimpl

@dataclass(frozen=True)
class Even(Strategy):
    \"\"\"Every group trains at the same rate.\"\"\"

    def lr_scales(self, epoch, epochs, groups):
        return dict.fromkeys(groups, 1.0)
"""

GOOD = HEAD + "@hookimpl\ndef ftkit_strategies():\n    return {'even': Even}\n"


@dataclass(frozen=True)
class Broken:
    """A plugin's source, and a part of the message that must be shown for it.

    Attributes:
        lists: Whether it loads, and only a value that it offers is at fault; then its state is `faulty`.
        requires: What its package needs, as metadata.
    """

    source: str
    says: str
    lists: bool = False
    requires: str = ""
    entry: str = ""


BROKEN = {
    "missing-import": Broken("import a_module_that_is_not_there\n", "a_module_that_is_not_there"),
    "syntax-error": Broken("def ftkit_strategies(:\n", "SyntaxError"),
    "raises": Broken("raise RuntimeError('no licence found')\n", "no licence found"),
    "system-exit": Broken("import sys\nsys.exit(3)\n", "SystemExit: 3"),
    "hangs": Broken("import time\nwhile True:\n    time.sleep(0.05)\n", "takes more than 2 s"),
    "hangs-and-holds-on": Broken(
        "import time\nwhile True:\n    try:\n        time.sleep(0.05)\n    except Exception:\n        pass\n",
        "takes more than 2 s",
    ),
    "misspelt": Broken(
        HEAD + "@hookimpl\ndef ftkit_strategy():\n    return {'even': Even}\n",
        "there is no hook ftkit_strategy, did you mean ftkit_strategies?",
    ),
    "unmarked": Broken(
        HEAD + "def ftkit_strategies():\n    return {'even': Even}\n", "ftkit_strategies is not marked: write @hookimpl"
    ),
    "wrong-argument": Broken(
        HEAD + "@hookimpl\ndef ftkit_strategies(backbone):\n    return {'even': Even}\n",
        "can not be found in the hookspec",
    ),
    "no-hook": Broken("answer = 42\n", "it implements no hook"),
    "hook-raises": Broken(
        HEAD + "@hookimpl\ndef ftkit_strategies():\n    raise KeyError('shelf')\n", "KeyError: 'shelf'"
    ),
    "hook-exits": Broken(HEAD + "@hookimpl\ndef ftkit_strategies():\n    raise SystemExit('bye')\n", "SystemExit: bye"),
    "returns-a-list": Broken(
        HEAD + "@hookimpl\ndef ftkit_strategies():\n    return [Even]\n", "returned list, not a mapping"
    ),
    "returns-nothing": Broken(HEAD + "@hookimpl\ndef ftkit_strategies():\n    pass\n", "returned NoneType"),
    "mapping-raises": Broken(
        HEAD + "class Items(dict):\n    def __iter__(self):\n        raise OSError('the disc is gone')\n"
        "@hookimpl\ndef ftkit_strategies():\n    return Items()\n",
        "the disc is gone",
    ),
    "names-are-numbers": Broken(HEAD + "@hookimpl\ndef ftkit_strategies():\n    return {7: Even}\n", "called 7"),
    "value-raises": Broken(
        HEAD + "class Items(dict):\n    def __getitem__(self, key):\n        raise OSError('the drawer is stuck')\n"
        "@hookimpl\ndef ftkit_strategies():\n    return Items(even=Even)\n",
        "the drawer is stuck",
        lists=True,
    ),
    "value-of-another-kind": Broken(
        HEAD + "@hookimpl\ndef ftkit_strategies():\n    return {'even': print}\n", "is no strategy", lists=True
    ),
    "needs-a-newer-ftkit": Broken(GOOD, "it needs ftkit>=99, and this is ftkit", requires="ftkit>=99"),
    "entry-point-of-nothing": Broken(GOOD, "AttributeError", entry=":nothing"),
    "entry-point-no-module": Broken(GOOD, "is no module", entry=":Even"),
    "prints-and-then-raises": Broken("print('hello from the plugin')\nraise ValueError('late')\n", "ValueError: late"),
}


def install(site: Path, name: str, plugin: Broken | str, package: str | None = None) -> Path:
    """Write a package with an entry point into a folder, which is to be put on PYTHONPATH."""
    source, requires, entry = (
        (plugin, "", "")
        if isinstance(plugin, str)
        else (
            plugin.source,
            plugin.requires,
            plugin.entry,
        )
    )
    package = package or f"ftkit-{name}"
    module = package.replace("-", "_")
    site.mkdir(parents=True, exist_ok=True)
    (site / f"{module}.py").write_text(source, encoding="utf-8")
    info = site / f"{module}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    about = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nSummary: For a test.\n{needs}"
    (info / "METADATA").write_text(about, encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[ftkit]\n{name} = {module}{entry}\n", encoding="utf-8")
    return site
