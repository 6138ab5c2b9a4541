"""Rank and number of processes, from the environment that a launcher sets. Imports nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping

from ftkit.errors import RequestError, shell_word

LAUNCH = "LAUNCH_FOLDER_OF_FTKIT"
"""Set by ftkit's own launcher: a folder in which the processes of a launch write their errors."""
FIRST_PORT, PORTS = 20000, 20000
_ON = {"1", "true", "yes", "on"}
_REFUSED = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM doesn't train image classifiers",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "only data parallelism is supported",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker's launcher isn't supported",
}


def rank() -> int:
    """Index of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) if launched() else 1


def resume_command(run: str, processes: int) -> str:
    """The command that resumes a run with so many processes."""
    return f"ftkit train --resume {shell_word(run)}" + (f" --num-processes {processes}" if processes > 1 else "")


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher has started this process as one of several."""
    return "RANK" in environment or "LOCAL_RANK" in environment


def prepare(asked: int | None, environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the launcher's variables from SLURM's, and refuse variables that a run would ignore.

    Args:
        asked: The value of `--num-processes`.

    Raises:
        RequestError: The environment contradicts the command line, or asks for something unsupported.
    """
    refuse_unsupported(environment)
    _adopt_sharding(environment)
    if not launched(environment):
        _from_slurm(asked, environment)
    if not launched(environment):
        return
    missing = [k for k in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if k not in environment]
    if missing:
        raise RequestError(f"the launcher hasn't set {', '.join(missing)}", "start with ftkit train --num-processes N")
    for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"):
        _number(environment, key)
    if asked is not None and LAUNCH not in environment and asked != int(environment["WORLD_SIZE"]):
        raise RequestError(
            f"--num-processes {asked}, but the launcher started {environment['WORLD_SIZE']}", "drop --num-processes"
        )


def refuse_unsupported(environment: Mapping[str, str]) -> None:
    """Refuse variables of `accelerate launch` that ftkit doesn't support.

    Raises:
        RequestError: Names the variable and the reason.
    """
    for key, why in _REFUSED.items():
        if environment.get(key, "").lower() in _ON:
            raise RequestError(f"{key}={environment[key]}: {why}", f"unset {key}, or choose plain data parallelism")
    if environment.get("ACCELERATE_USE_FSDP", "").lower() in _ON:
        _refuse_in_fsdp(environment)
    if environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() in _ON:
        _refuse_in_deepspeed(environment)
    backend = environment.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() not in ("no", ""):
        raise RequestError(f"ACCELERATE_DYNAMO_BACKEND={backend} isn't used", "unset it, and give --compile")
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps != "1":
        raise RequestError(f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS={steps} isn't used", "give --accumulate instead")


def _refuse_in_fsdp(environment: Mapping[str, str]) -> None:
    version = environment.get("FSDP_VERSION", "1")
    if version != "2":
        raise RequestError(
            f"FSDP_VERSION={version}: parameters of one group can't be frozen there", "set fsdp_version: 2"
        )
    for key in ("FSDP_OFFLOAD_PARAMS", "FSDP_ACTIVATION_CHECKPOINTING"):
        if environment.get(key, "").lower() in _ON:
            raise RequestError(f"{key}={environment[key]} isn't supported", f"set {key.lower()}: false")


def _refuse_in_deepspeed(environment: Mapping[str, str]) -> None:
    if environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none").lower() not in ("", "none"):
        raise RequestError(
            "ACCELERATE_DEEPSPEED_CONFIG_FILE isn't read", "set zero_stage in place of deepspeed_config_file"
        )
    stage = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage not in ("1", "2"):
        why = "shards the weights too" if stage == "3" else "shards nothing"
        remedy = "set zero_stage to 1 or 2, or give --fsdp in place of DeepSpeed"
        raise RequestError(f"ACCELERATE_DEEPSPEED_ZERO_STAGE={stage} {why}, which isn't supported", remedy)
    for key in ("OFFLOAD_OPTIMIZER_DEVICE", "OFFLOAD_PARAM_DEVICE"):
        value = environment.get(f"ACCELERATE_DEEPSPEED_{key}", "none")
        if value.lower() not in ("", "none"):
            raise RequestError(f"ACCELERATE_DEEPSPEED_{key}={value} isn't supported", f"set {key.lower()}: none")
    if environment.get("ACCELERATE_GRADIENT_CLIPPING", "none").lower() not in ("", "none"):
        raise RequestError("ACCELERATE_GRADIENT_CLIPPING isn't used", "give --clip-grad instead")


def _adopt_sharding(environment: MutableMapping[str, str]) -> None:
    """Turn accelerate's settings into `--fsdp` or `--zero-stage`, since it would wrap the network itself."""
    if environment.pop("ACCELERATE_USE_DEEPSPEED", "").lower() in _ON:
        environment.setdefault("FTKIT_ZERO_STAGE", environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
    if environment.pop("ACCELERATE_USE_FSDP", "").lower() in _ON:
        environment.setdefault("FTKIT_FSDP", "true")


def _from_slurm(asked: int | None, environment: MutableMapping[str, str]) -> None:
    tasks = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "1")
    if tasks == "1" or "SLURM_PROCID" not in environment:
        return
    if "SLURM_STEP_ID" not in environment:
        if asked is None:
            raise RequestError(
                f"SLURM gives {tasks} tasks, and this would use one", "start it with srun, or give --num-processes"
            )
        return
    if "SLURM_LOCALID" not in environment:
        raise RequestError("SLURM_PROCID is set without SLURM_LOCALID", "start it with srun")
    environment.setdefault("MASTER_ADDR", _first_host(environment.get("SLURM_JOB_NODELIST", "127.0.0.1")))
    job = re.sub(r"\D", "", environment.get("SLURM_JOB_ID", "")) or "0"
    environment.setdefault("MASTER_PORT", str(FIRST_PORT + int(job) % PORTS))
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["LOCAL_RANK"] = environment["SLURM_LOCALID"]
    environment["WORLD_SIZE"] = tasks


def _first_host(nodes: str) -> str:
    """The first name in SLURM's list: `gpu07` of `gpu[07-09,12],login`."""
    found = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part or "" for part in found.groups()) if found else nodes


def _number(environment: Mapping[str, str], key: str) -> None:
    if not environment[key].isdigit():
        raise RequestError(f"{key}={environment[key]} is not a number", "start with ftkit train --num-processes N")
