"""Start-up time: `ftkit --help` against that of a minimal typer app, and lists, in whole processes.

    python benchmarks/startup.py [--rounds 15]

All run alternately, in changing order. Prints the medians, the ratio of the first two, which must be at most 1.3, and
the lists' seconds, which must be at most 0.5 with the packages in `plugins/` installed. The list of backbones is made
before (`index_key` of docs/plugins.md), which takes seconds for each version of a package.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALLEST = """
import typer

app = typer.Typer()


@app.command()
def hello(name: str = "you") -> None:
    '''Say hello.'''
    print(name)


app()
"""


LISTS = ("backbones list", "backbones list *resnet* --json", "plugins list", "strategies list")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder, "small.py")
        small.write_text(SMALLEST, encoding="utf-8")
        commands = {"ftkit": ("-m", "ftkit", "--help"), "the smallest app": (str(small), "--help")}
        times: dict[str, list[float]] = {name: [] for name in commands}
        commands |= {name: ("-m", "ftkit", *name.split()) for name in LISTS}
        times |= {name: [] for name in LISTS}
        timed("-m", "ftkit", "backbones", "list")
        for number in range(-1, rounds):
            for name in sorted(commands, reverse=number % 2 == 1):
                seconds = timed(*commands[name])
                if number >= 0:  # The first round fills the disk cache.
                    times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name}: {1000 * seconds:.0f} ms")
    print(f"slowest list: {max(medians[name] for name in LISTS):.2f} s (at most 0.5)")
    print(f"ratio: {medians['ftkit'] / medians['the smallest app']:.2f} (at most 1.3)")


def timed(*command: str) -> float:
    # Without bytecode on the disk, Python compiles all modules at each start.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], env=environment, capture_output=True, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
