"""The program and trainings set the C library's allocator to keep freed memory, unless the environment is set."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MakeFolder

RUN = """
import resource, sys
import ftkit, torch

folder, megabytes, layers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def allocate_in_each_layer(*_):
    [torch.ones(megabytes * 2**18) for _ in range(layers)]
    if not layers:
        sum(range(5 * 10**5))  # time that isn't the kernel's, of which an epoch of few small images has little

hook = torch.nn.modules.module.register_module_forward_pre_hook(allocate_in_each_layer)
ftkit.train(ftkit.plan(dataset={"name": "folder", "root": folder}, backbone="lenet", weights="none", strategy="full",
    epochs=1, batch_size=2, workers=0, device="cpu", report=False, output=folder + "/runs"))
hook.remove()

def step():
    [torch.ones(megabytes * 2**18) for _ in range(8)]

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
pages = 5 * 8 * megabytes * 2**20 / resource.getpagesize()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / pages)
"""

THREADS = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor

sys.argv = ["ftkit", "--version"]
from ftkit.cli.main import main

main()
import torch

def allocate(megabytes, count):
    [torch.ones(megabytes * 2**18) for _ in range(count)]

with ThreadPoolExecutor(2) as pool:
    list(pool.map(allocate, 4 * [4], 4 * [40]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    list(pool.map(allocate, 6 * [40], 6 * [1]))
pages = 6 * 40 * 2**20 / resource.getpagesize()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / pages)
"""

AFTER = """
import resource, sys
import ftkit, psutil, torch

def train():
    folder = sys.argv[1]
    ftkit.train(ftkit.plan(dataset={"name": "folder", "root": folder}, backbone="lenet", weights="none", epochs=1,
        strategy="full", batch_size=2, workers=0, device="cpu", report=False, output=folder + "/runs"))

train()
[torch.ones(5 * 2**20) for _ in range(8)]
held = psutil.Process().memory_info().rss
train()
print((held - psutil.Process().memory_info().rss) / 2**20)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is set")


@glibc
def test_it_is_given_back_when_the_training_is_over(tmp_path: Path, image_folder: MakeFolder) -> None:
    image_folder(tmp_path, {"train": {"a": 2, "b": 2}, "val": {"a": 1, "b": 1}})
    done = subprocess.run([sys.executable, "-c", AFTER, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) > 100, "megabytes of the 160 that were freed"


@glibc
@pytest.mark.parametrize(("layers", "megabytes", "threshold", "faults"), [
    (3, 40, "", False),
    pytest.param(0, 40, "", True, marks=pytest.mark.long),
    pytest.param(0, 20, "", False, marks=pytest.mark.long),
    pytest.param(3, 20, "131072", True, marks=pytest.mark.long),
    pytest.param(3, 40, "131072", True, marks=pytest.mark.long),
])  # fmt: skip
def test_blocks_that_a_step_has_freed_are_used_again(
    tmp_path: Path, image_folder: MakeFolder, layers: int, megabytes: int, threshold: str, faults: bool
) -> None:
    """Above 32 MB only if the network's own blocks of this size take much of an epoch's time in the kernel."""
    image_folder(tmp_path, {"train": {"a": 2, "b": 2}, "val": {"a": 1, "b": 1}})
    environment = os.environ | ({"MALLOC_TRIM_THRESHOLD_": threshold} if threshold else {})
    command = [sys.executable, "-c", RUN, str(tmp_path), str(megabytes), str(layers)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (float(done.stdout.splitlines()[-1]) > 0.5) == faults, done.stdout


@glibc
@pytest.mark.parametrize(("threshold", "faults"), [("", False), pytest.param("131072", True, marks=pytest.mark.long)])
def test_threads_of_the_program_use_freed_memory_for_blocks_of_40_mb(threshold: str, faults: bool) -> None:
    """As layers that compute eight images in a thread do. A thread's own memory has no room for two such blocks."""
    environment = os.environ | {"PYTHONUTF8": "1"} | ({"MALLOC_TRIM_THRESHOLD_": threshold} if threshold else {})
    done = subprocess.run([sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True, check=True)
    assert (float(done.stdout.splitlines()[-1]) > 0.5) == faults, done.stdout
