"""A run of a few epochs on a dozen generated images, for contract checks that train."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.testing.sample_images import make_image_folder

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan
    from ftkit.training.events import Listener

LAYOUT = {"train": {"a": 6, "b": 6}, "val": {"a": 2, "b": 2}}
BATCH_SIZE = 4
"""Three steps per epoch."""


class ShortRun:
    """A run with a checkpoint at the end of each epoch, by default of all layers of ResNet-20 for small images.

    Args:
        output: A new folder for the images and the run.
        changes: Fields of the plan to replace, such as a part that isn't registered under a name.
        exists: Whether the run was created before.

    Attributes:
        plan: The plan; it can be replaced before the run is resumed.
        folder: The run folder.
    """

    def __init__(self, output: Path, epochs: int, changes: Mapping[str, Any], exists: bool = False) -> None:
        import ftkit
        from ftkit.runs.run_folder import RunFolder
        from ftkit.training.preparation.open_run import open_run

        data = output.with_name("data")
        if not data.exists():
            make_image_folder(data, LAYOUT, (32, 32))
        # Without a file of its own, the run would take settings of the working folder's ftkit.yaml.
        settings = output.with_name("settings.yaml")
        settings.touch()
        plan = ftkit.plan(
            settings,
            dataset={"name": "folder", "root": str(data)},
            backbone="cifar_resnet20",
            strategy="full",
            weights="none",
            epochs=epochs,
            batch_size=BATCH_SIZE,
            workers=0,
            augment="light",
            device="cpu",
            output=str(output),
            name="run",
            checkpoint={"keep": epochs + 1, "min_seconds": 0},
        )
        self.plan: Plan = replace(plan, **changes)
        self.folder = RunFolder(output / "run") if exists else open_run(self.plan)

    def train(self, stop_after: int | None = None) -> None:
        """Train to the end; with `stop_after`, stop the run by a signal after that many steps, and resume it."""
        from ftkit.errors import RunInterrupted
        from ftkit.training.train import train

        if stop_after is None:
            train(self.plan, self.folder)
            return
        try:
            train(self.plan, self.folder, _stop_after_steps(stop_after))
        except RunInterrupted:
            train(self.plan, self.folder, resume=True)

    def weights(self) -> bytes:
        """The file of the last epoch's weights."""
        return (self.folder.last / "model.safetensors").read_bytes()


def _stop_after_steps(steps: int) -> Listener:
    """A listener that sends SIGTERM to this process after a number of steps."""
    from ftkit.training.events import Listener, StepDone

    class Stopper(Listener):
        left = steps

        def step_done(self, event: StepDone) -> None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    return Stopper()
