"""Losses, gradients and weights that aren't finite: found before they reach a checkpoint, and the images named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ftkit.data.images import sample_name
from ftkit.distributed.collectives import max_over_processes
from ftkit.errors import SettingsError
from ftkit.training.callbacks.trainer_callback import TrainerCallback
from ftkit.training.run_context import RunContext
from ftkit.training.steppers.fsdp import own

if TYPE_CHECKING:
    from ftkit.training.trainer import Trainer

NAMED = 8
"""Most images of a step that a message names."""
KEPT = "the checkpoints from before are kept"


class NanGuard(TrainerCallback):
    """Ends a run whose losses or weights aren't finite."""

    name = "nan_guard"
    order = 50

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        # The first step of the epoch whose loss isn't finite, -1 for none; on the device, so as not to wait for it.
        self._wrong_step = torch.tensor(-1, device=trainer.session.device)

    def allows_update(self, loss: Tensor, step: int) -> bool:
        wrong = (self._wrong_step < 0) & ~torch.isfinite(loss.detach())
        self._wrong_step.masked_fill_(wrong, step)  # `torch.where` would copy the number to the device, and wait
        return True

    def on_update_refused(self, step: int) -> None:
        self.on_report({})
        raise SettingsError(
            f"the gradients are not finite in {self._place(step)}, on {self._images(step)}",
            f"lower --lr, or set --clip-grad; {KEPT}",
        )

    def on_report(self, rates: Mapping[str, float]) -> None:
        """Stop, on all processes, where a loss wasn't finite in any of them.

        Raises:
            SettingsError: Names the epoch, the step and the images of its batches.
        """
        step = max_over_processes(self.trainer.session.accelerator, int(self._wrong_step))
        if step >= 0:
            raise SettingsError(
                f"the loss is not finite in {self._place(step)}, on {self._images(step)}",
                f"lower --lr, check these images, or leave such steps out with --on-nan skip; {KEPT}",
            )

    def on_checkpoint(self) -> None:
        self.on_report({})
        if self.trainer.session.progress.step:  # At the end of an epoch they were checked before its validation.
            self.on_epoch_trained()

    def on_epoch_trained(self) -> None:
        """Keep weights that aren't finite out of checkpoints and models.

        Only what trains can have become so, and buffers; all of it is checked while nothing is frozen yet.

        Raises:
            SettingsError: A parameter or buffer isn't finite; names it.
        """
        session = self.trainer.session
        trained = ((name, tensor) for name, tensor in session.network.named_parameters() if tensor.requires_grad)
        checked = [(n, own(t)) for n, t in (*trained, *session.network.named_buffers()) if t.is_floating_point()]
        wrong = next((place for place, (_, tensor) in enumerate(checked) if not torch.isfinite(tensor).all()), -1)
        # Another process may have the shard that isn't finite, and all must stop.
        wrong = wrong if self.trainer.shards is None else max_over_processes(session.accelerator, wrong)
        if wrong >= 0:
            raise SettingsError(
                f"{checked[wrong][0]} is not finite after epoch {session.progress.epoch}, step "
                f"{session.progress.step}, though the losses were",
                f"lower --lr, or set --clip-grad; {KEPT}",
            )

    def _place(self, step: int) -> str:
        return f"epoch {self.trainer.session.progress.epoch + 1}, step {step + 1}"

    def _images(self, step: int) -> str:
        """The images of a step of the epoch under way, over all processes, by name."""
        session = self.trainer.session
        order, split = session.order.indices(), session.split("train")
        names = [sample_name(split, int(order[place])) for place in session.plan.batches.step(step)]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return ", ".join(names[:NAMED]) + more


class SkipNonFinite(NanGuard):
    """Leaves out steps whose loss or gradients aren't finite."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self._skipped = 0
        self._before: list[tuple[Tensor, Tensor]] = []

    def on_step_start(self) -> None:
        """Copy what a forward pass changes besides gradients: buffers and totals."""
        changed = [*self.trainer.session.network.buffers(), self.trainer.totals.values]
        self._before = [(tensor, tensor.clone()) for tensor in changed]

    def allows_update(self, loss: Tensor, step: int) -> bool:
        if self._is_sound(loss):
            return True
        with torch.no_grad():
            for tensor, before in self._before:
                tensor.copy_(before)
        if not self._skipped:
            self.trainer.session.listener.note(
                f"{self._place(step)} is left out: its loss or gradients are not finite, on {self._images(step)}"
            )
        self._skipped += 1
        return False

    def on_epoch_end(self, run: RunContext, record: Mapping[str, Any]) -> Mapping[str, float]:
        skipped, self._skipped = self._skipped, 0
        return {"skipped_steps": skipped} if run.epoch else {}

    def state_dict(self) -> Mapping[str, Any]:
        return {"skipped": self._skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._skipped = int(state["skipped"])

    def _is_sound(self, loss: Tensor) -> bool:
        """Whether the loss is finite on all processes, and so are the gradients.

        The gradients of several processes are averaged, so they are the same on all. In fp16 they are scaled, and the
        scaler itself leaves out steps in which they overflow.
        """
        session = self.trainer.session
        sound = torch.isfinite(loss.detach())
        if session.accelerator.scaler is None:
            gradients = [own(p.grad) for p in session.network.parameters() if p.grad is not None]
            # Shards of one gradient may be finite in this process and not in another; all processes are compared below.
            sound = sound & torch.isfinite(torch.nn.utils.get_total_norm(gradients))
        return not max_over_processes(session.accelerator, int(not sound))
