"""The batch file of a new project: SLURM's commands are stubs that stand for it, the rest is real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import RunFtkit

NOTES = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$STUBS/notes"
"""
SRUN_THAT_ENDS = f"{NOTES}exit $CODE\n"
SRUN_AS_TIME_RUNS_OUT = f"""{NOTES}
"$@" &
until [[ $CODE == 0 || -e runs/slurm-77/checkpoints/LATEST ]]; do sleep 0.1; done
[[ $CODE == 0 ]] || kill -USR1 $!
wait $!
"""


@pytest.fixture
def project(tmp_path: Path, run_ftkit: RunFtkit) -> Path:
    done = run_ftkit("init", "my-project", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path / "my-project"


def submit(project: Path, srun: str, code: int, *flags: str) -> tuple[int, list[str]]:
    """Run the batch file as SLURM would; its exit code, and what it called."""
    stubs = project.parent / "stubs"
    stubs.mkdir(exist_ok=True)
    (stubs / "notes").unlink(missing_ok=True)
    for name, text in (("srun", srun), ("scontrol", NOTES)):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "node1"}
    path = os.pathsep.join([str(stubs), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, **slurm, "PATH": path, "STUBS": str(stubs), "CODE": str(code)}
    done = subprocess.run(["bash", "train.sbatch", *flags], cwd=project, env=env, capture_output=True, check=False)
    return done.returncode, (stubs / "notes").read_text().splitlines()


@pytest.mark.parametrize("code", [0, 1, 2, 143])
def test_a_job_that_ends_is_not_queued_again(code: int, project: Path) -> None:
    assert submit(project, SRUN_THAT_ENDS, code, "--epochs", "3") == (
        code,
        ["srun ftkit train --name slurm-77 --epochs 3"],
    )


def test_a_job_whose_time_is_up_is_queued_again_and_resumes(project: Path) -> None:
    assert submit(project, SRUN_THAT_ENDS, 138) == (138, ["srun ftkit train --name slurm-77", "scontrol requeue 77"])
    (project / "runs/slurm-77").mkdir(parents=True)
    assert submit(project, SRUN_THAT_ENDS, 0) == (0, ["srun ftkit train --resume slurm-77"])


def test_slurm_is_asked_for_the_signal_that_the_run_heeds(project: Path) -> None:
    lines = (project / "train.sbatch").read_text().splitlines()
    asked = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert {"--job-name=my-project", "--requeue", "--signal=USR1@120", "--open-mode=append"} < set(asked)


@pytest.mark.long
def test_a_job_that_was_queued_again_finishes_the_run(project: Path) -> None:
    code, called = submit(project, SRUN_AS_TIME_RUNS_OUT, 138, "--epochs", "4", "--strategy", "full")
    assert (code, called[-1]) == (138, "scontrol requeue 77")
    assert not (project / "runs/slurm-77/last").exists()
    code, called = submit(project, SRUN_AS_TIME_RUNS_OUT, 0, "--epochs", "4", "--strategy", "full")
    assert (code, called) == (0, ["srun ftkit train --resume slurm-77 --epochs 4 --strategy full"])
    assert yaml.safe_load((project / "runs/slurm-77/config.yaml").read_text())["epochs"] == 4
    assert len((project / "runs/slurm-77/metrics.jsonl").read_text().splitlines()) == 5
