"""Digests of a run's inputs, written at its start and checked before its result or its state is used again.

Names, paths and settings are in its config and plan. These are the contents that they refer to: the weights file, the
code of a plugin's network, the pixels of the images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ftkit.data.images import sample_file
from ftkit.data.loading.seeds import derive
from ftkit.data.scan.content_digests import image_digests, stamp_digest
from ftkit.distributed.processes import run_on_main
from ftkit.errors import FtkitError, RequestError
from ftkit.files.durable import replace_file
from ftkit.files.file_identity import Stamp, file_sha256, file_stamp
from ftkit.models.build import build_architecture
from ftkit.models.identity import describe_network
from ftkit.parts.dataset import Split, SplitName
from ftkit.planning.plan_json import schedule_change
from ftkit.planning.run_plan import Plan
from ftkit.runs.checkpoint import has_checkpoint
from ftkit.runs.run_folder import RunFolder
from ftkit.training.checkpoint_state import versions
from ftkit.training.session import Session

MOST_OPENED = 10_000
"""Most images without a file and a stamp that are opened for their digest; of more, evenly spaced ones are."""


def write_inputs(session: Session) -> None:
    """Write `inputs.json` into the folder of a new run."""
    if session.is_main:
        found = run_inputs(session.plan, session.network_facts, _of_session(session))
        replace_file(session.run.inputs, json.dumps(found, indent=1).encode() + b"\n")


def run_inputs(
    plan: Plan, network: Mapping[str, Any] | None = None, images: Mapping[str, str | None] | None = None
) -> dict[str, Any]:
    """Digests of the inputs of a plan's run, as JSON values.

    Args:
        network: The result of `describe_network`; by default a network is built for this.
        images: The result of `images_digest` for training and validation images.
    """
    return {
        "weights": weights_digest(plan),
        "network": dict(network or bare_facts(plan)),
        "images": images
        or {name: images_digest(split, _reads(plan)) for name, split in plan.splits.present() if name != "test"},
        "teacher": None if plan.teacher is None else plan.teacher.sha256,
        "versions": versions(plan),
    }


def bare_facts(plan: Plan) -> dict[str, Any]:
    """`network_facts` for the network of a plan."""
    torch.manual_seed(derive(plan.config.seed, "init"))
    return describe_network(build_architecture(plan))


def weights_digest(plan: Plan) -> str | None:
    """Digest of a run's first weights; None for random ones, or where their file is gone."""
    if plan.weights.path is not None:
        try:
            return _file_sha256(plan.weights.path, file_stamp(plan.weights.path))
        except OSError:
            return None
    if plan.weights.pretrained is None:
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(plan.weights.pretrained.load().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _reads(plan: Plan) -> bool:
    """Whether the content of image files is read for digests; with a partial scan that would take too long."""
    return plan.config.scan == "full"


def images_digest(split: Split, reads: bool = True) -> str | None:
    """Digest of the images of a split and their order; None for remote data without a stamp.

    Args:
        reads: Use the content of files; otherwise their stamps, so that a copy of the data has another digest.
    """
    if not reads and (digest := stamp_digest(split)) is not None:
        return digest
    if split.stamp is None and split.blocks is not None:
        return None
    if _is_opened(split) and len(split) > MOST_OPENED:
        split = split.subset(range(0, len(split), -(-len(split) // MOST_OPENED)))
    return image_digests(split).digest


def _is_opened(split: Split) -> bool:
    return split.stamp is None and sample_file(split, 0) is None


def _of_session(session: Session) -> dict[str, str | None]:
    """Digests of a run's images; those that the cache needs too are kept in the session."""
    names: tuple[SplitName, ...] = ("train", "val")
    return {
        name: images_digest(session.split(name), _reads(session.plan))
        if _is_opened(session.split(name)) or not _reads(session.plan)
        else session.image_digests(name).digest
        for name in names
    }


def changed_inputs(run: RunFolder, plan: Plan) -> str | None:
    """The difference between an existing run's inputs and a plan's, in words; None where the results are the same."""
    changed = schedule_change(json.loads(run.plan.read_text(encoding="utf-8")), plan)
    if changed is not None:
        return changed
    before = read_inputs(run)
    if before is None:
        return "its inputs aren't known, since an earlier ftkit wrote it"
    now = run_inputs(plan)
    if before.get("weights") != now["weights"]:
        return f"{plan.weights.path or plan.weights.name} holds other weights than those that it started from"
    if before.get("network") != now["network"]:
        return f"the code or settings of {plan.backbone.name} have changed"
    if before.get("teacher") != now["teacher"]:
        return f"its teacher {plan.config.teacher} is another model than when it started"
    others = [name for name, digest in now["images"].items() if before.get("images", {}).get(name) != digest]
    if others:
        return f"its {others[0]} images have changed"
    return None


def require_same_inputs(session: Session) -> None:
    """Refuse to resume a run whose schedule or network has changed, and report other changes.

    Raises:
        RequestError: Names the change.
    """
    for line in run_on_main(lambda: _changes(session)):
        session.listener.note(line)


def _changes(session: Session) -> list[str]:
    run, plan = session.run, session.plan
    hint = "put it back as it was, or start a new run"
    changed = schedule_change(json.loads(run.plan.read_text(encoding="utf-8")), plan)
    if changed is not None:
        raise RequestError(f"{run.path} can't resume: {changed}", hint)
    before = read_inputs(run)
    if before is None:
        return []
    if plan.teacher is not None and before.get("teacher") != plan.teacher.sha256:
        raise RequestError(
            f"{run.path} can't resume: {plan.teacher.folder} is another model than when it started", hint
        )
    network = before.get("network", {})
    if network.get("identity") != session.network_facts["identity"]:
        if (network.get("packages"), before.get("versions")) == (session.network_facts["packages"], versions(plan)):
            raise RequestError(
                f"{run.path} can't resume: the code or settings of {plan.backbone.name} have changed since it started",
                hint,
            )
        return [f"{plan.backbone.name} is built by other versions of packages than when the run started"]
    weights, lines = _weights_now(session), []
    if weights is not None and weights != before.get("weights"):
        line = f"{plan.weights.path or plan.weights.name} holds other weights than when the run started"
        if not has_checkpoint(run.checkpoints):
            raise RequestError(f"{run.path} has no checkpoint to resume from, and {line}", hint)
        lines.append(f"{line}; it resumes from its checkpoint")
    for name, digest in _of_session(session).items():
        if digest != before.get("images", {}).get(name):
            lines.append(f"{name} images have changed since the run started; it resumes with the new ones")
    return lines


def _weights_now(session: Session) -> str | None:
    """As `weights_digest`; None too where they aren't available and there is a checkpoint."""
    try:
        return weights_digest(session.plan)
    except FtkitError:
        if not has_checkpoint(session.run.checkpoints):
            raise
        return None


def read_inputs(run: RunFolder) -> dict[str, Any] | None:
    """The digests written at a run's start; None for a run of an earlier ftkit, which wrote none.

    Raises:
        FtkitError: The file is damaged.
    """
    try:
        found = json.loads(run.inputs.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise FtkitError(f"{run.inputs}: can't be read: {error}", "remove it to resume unchecked") from None
    return found if isinstance(found, dict) else None


@lru_cache(maxsize=8)
def _file_sha256(path: Path, stamp: Stamp) -> str:
    return file_sha256(path)
