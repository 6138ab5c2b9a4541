"""The environment of launchers: SLURM, torchrun and accelerate."""

from __future__ import annotations

import re

import pytest

from ftkit.distributed import launch_env
from ftkit.errors import RequestError


def test_slurm_is_taken_over() -> None:
    environment = {
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_NTASKS": "4",
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "gpu[07-09,12],login",
    }
    launch_env.prepare(4, environment)
    assert [environment[k] for k in ("RANK", "LOCAL_RANK", "WORLD_SIZE")] == ["3", "1", "4"]
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("gpu07", "23456")


@pytest.mark.parametrize("key", ["ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG"])
def test_what_would_be_ignored_is_refused_by_name(key: str) -> None:
    with pytest.raises(RequestError, match=key):
        launch_env.prepare(None, {key: "true"})


def test_tasks_that_slurm_gives_and_nothing_uses_are_refused() -> None:
    with pytest.raises(RequestError, match="SLURM gives 4 tasks"):
        launch_env.prepare(None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"})


def test_another_number_than_the_launcher_started_is_refused() -> None:
    given = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    with pytest.raises(RequestError, match="--num-processes 2, but the launcher started 3"):
        launch_env.prepare(2, given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "FSDP_VERSION=1: parameters of one group can't be frozen"),
        ({"FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "FSDP_OFFLOAD_PARAMS=true isn't supported"),
    ],
)
def test_what_fsdp_cant_do_is_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(RequestError, match=re.escape(says)):
        launch_env.prepare(None, {"ACCELERATE_USE_FSDP": "true", **given})


def test_a_config_of_accelerate_for_fsdp_is_taken_over() -> None:
    environment = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    launch_env.prepare(None, environment)
    assert (environment["FTKIT_FSDP"], "ACCELERATE_USE_FSDP" in environment) == ("true", False)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("DEEPSPEED_ZERO_STAGE", "3", "shards the weights too"),
        ("DEEPSPEED_ZERO_STAGE", "0", "shards nothing"),
        ("DEEPSPEED_CONFIG_FILE", "ds.json", "isn't read"),
        ("DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu", "isn't supported"),
        ("DEEPSPEED_OFFLOAD_PARAM_DEVICE", "nvme", "isn't supported"),
        ("GRADIENT_CLIPPING", "1.0", "isn't used"),
    ],
)
def test_what_deepspeed_would_do_otherwise_is_refused(key: str, value: str, says: str) -> None:
    with pytest.raises(RequestError, match=f"ACCELERATE_{key}.* {says}"):
        launch_env.prepare(None, {"ACCELERATE_USE_DEEPSPEED": "true", f"ACCELERATE_{key}": value})


def test_a_config_of_accelerate_for_deepspeed_is_taken_over() -> None:
    environment = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}
    launch_env.prepare(None, environment)
    assert (environment["FTKIT_ZERO_STAGE"], "ACCELERATE_USE_DEEPSPEED" in environment) == ("1", False)
