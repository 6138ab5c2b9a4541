"""`batch_size: auto`: the largest batches that fit into memory, found by trial before the run starts.

The images of an optimizer step are those of the plan; how many of them the device computes at a time is found here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ftkit.config.choices import AUTO
from ftkit.data.loading.decoded_images import available_memory
from ftkit.distributed.collectives import max_over_processes
from ftkit.errors import FtkitError, plural
from ftkit.models.compute.memory_limit import release_memory
from ftkit.models.parameter_groups import preserve_modes, set_trainable
from ftkit.planning.plan_checks import UNMEASURED_BATCHES
from ftkit.planning.run_plan import Plan
from ftkit.strategies.schedule import Phase
from ftkit.tasks.training_loss import make_loss
from ftkit.training.preparation.memory_trial import FEWEST_FOR_BATCHNORM, MemoryTrial, fewest_images
from ftkit.training.preparation.open_run import write_request

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from ftkit.models.compute.devices import Compute
    from ftkit.runs.run_folder import RunFolder
    from ftkit.training.events import Listener


def settle_batch_size(
    plan: Plan, network: nn.Module, compute: Compute, accelerator: Accelerator, run: RunFolder, listener: Listener
) -> Plan:
    """The plan with a batch size and gradient accumulation steps in place of `auto`, also in the run's folder.

    Raises:
        FtkitError: As `_measured`.
    """
    if plan.config.batch_size != AUTO:
        return plan
    settled = _measured(plan, network, compute, accelerator)
    if accelerator.is_main_process:
        write_request(run, settled)
        listener.note(settled.notes[-1])
    return settled


def _measured(plan: Plan, network: nn.Module, compute: Compute, accelerator: Accelerator) -> Plan:
    """The plan with a batch size that fits in all processes. The network, which is on its device, stays as it is.

    Raises:
        FtkitError: In all processes, where not even the smallest batches fit.
    """
    images, parts, reason = plan.batches.batch_size, 1, "no epoch trains"
    if plan.schedule.phases:
        # The strategy's last phase trains most groups in general, and no other is expected to take more memory.
        phase = max(plan.schedule.phases, key=lambda one: (plan.memory_bytes(one) or 0, len(one.trainable)))
        with preserve_modes(network):
            modes = set_trainable(network, plan.schedule.groups, phase.trainable, plan.config.train_bn)
            trial = MemoryTrial(network, plan, compute, make_loss(plan, compute.device))
            parts = _fitting_parts(trial, phase, fewest_images(modes), accelerator)
        most, side = _with_division(plan, images // parts, parts).batches.largest, plan.preprocessing.size
        reason = f"{plural(most, 'image')} of {side} x {side} pixels at a time fit on {compute.device}"
        reason += f", {2 * most} don't" if parts > 1 else ""
    return _with_division(plan, images // parts, parts, reason)


def _fitting_parts(trial: MemoryTrial, phase: Phase, fewest: int, accelerator: Accelerator) -> int:
    """Into how many batches, a power of two, the images of a step and process must be divided.

    Raises:
        FtkitError: In all processes, where the batches would have fewer than `fewest` images.
    """
    plan, parts = trial.plan, 1
    copies = plan.optimizer.state_values + (plan.world_size > 1)  # The buckets in which gradients are exchanged.
    while True:
        divided = _with_division(plan, plan.batches.batch_size // parts, parts)
        short = _estimated_shortage(divided, phase, trial.compute) or trial.shortage(divided.batches.largest, copies)
        if short:
            release_memory(trial.compute.device)
        if not max_over_processes(accelerator, int(bool(short))):
            return parts
        parts *= 2
        if divided.batches.smallest // 2 < fewest or divided.batches.batch_size % 2:
            least, size, why = divided.batches.largest, max(1, plan.batches.batch_size // parts), ""
            if fewest > 1:
                why = f", and BatchNorm layers that train want {FEWEST_FOR_BATCHNORM} or more at a time"
            raise FtkitError(
                f"batch size auto: {short or 'out of memory in another process'} on {trial.compute.device} with "
                f"{plural(least, 'image')} at a time{why}",
                f"give --batch-size {size} --accumulate {parts}, or a smaller --image-size",
            )


def _estimated_shortage(plan: Plan, phase: Phase, compute: Compute) -> str:
    """Whether a CPU has too little memory by the plan's estimate: there a trial would be killed, or swap."""
    needed, free = plan.memory_bytes(phase), available_memory()
    if compute.device.type != "cpu" or needed is None or needed <= free:
        return ""
    return f"an estimated {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB available"


def _with_division(plan: Plan, batch_size: int, accumulate: int, reason: str = "") -> Plan:
    """The plan with a batch size and accumulation, and with the reason in place of the note that they are measured."""
    update = {"batch_size": batch_size, "accumulate": accumulate}
    config = plan.config.model_copy(update=update)
    notes = tuple(note for note in plan.notes if note != UNMEASURED_BATCHES)
    notes = (*notes, f"batch size auto: {batch_size} x {accumulate} accumulated, since {reason}")
    return replace(plan, resolved=replace(plan.resolved, config=config), notes=notes)
