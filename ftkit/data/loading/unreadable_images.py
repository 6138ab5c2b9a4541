"""Images that break while a run goes on, after it has looked at all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftkit.data.loading.loader import Batch, checked, require_sound
from ftkit.data.scan.image_scan import BadImage
from ftkit.errors import FtkitError, one_line
from ftkit.parts.dataset import SplitName

if TYPE_CHECKING:
    from ftkit.training.session import Session


def skip_unreadable(session: Session, split: SplitName, batch: Batch) -> Batch:
    """The batch with the images that could be read, where the config wants the others left out.

    A file is told of and listed once. A step's mean stays one over the images that it was meant to have.

    Raises:
        FtkitError: It doesn't want that; names the file.
    """
    if session.plan.config.on_bad_image != "skip":
        return checked(batch)
    require_sound(batch.faults)
    for fault in batch.faults:
        if fault.file not in session.broken:
            session.broken.add(fault.file)
            session.listener.note(one_line(f"{fault.file}: {fault.reason}; it is left out from now on"))
            session.run.append_list(session.run.bad_images, [BadImage(split, fault.file, fault.reason, late=True)])
    return batch


def enough(session: Session, batch: Batch, planned: int) -> bool:
    """Whether a training batch has images left to learn from; BatchNorm can't from one alone.

    One that was planned without an image, since a step has fewer images than parts, has work to do only where other
    processes have images in theirs.

    Raises:
        FtkitError: It hasn't, and other processes wait for this one to take part in the step.
    """
    if planned == 0:
        return bool(session.accelerator.num_processes > 1)
    if len(batch) >= min(2, planned):
        return True
    if session.accelerator.num_processes > 1:
        raise FtkitError(
            f"a process has no readable image left in a batch, and the others wait for it: {batch.faults[0].file}",
            "mend or remove the files that bad-images.jsonl in the run folder names, and resume",
        )
    return False
