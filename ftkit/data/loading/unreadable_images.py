"""Images that become unreadable during a run, after the initial scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftkit.data.loading.loader import Batch, raise_plugin_errors, require_readable
from ftkit.data.scan.image_scan import BadImage
from ftkit.errors import FtkitError, one_line
from ftkit.parts.dataset import SplitName

if TYPE_CHECKING:
    from ftkit.training.session import Session


def skip_unreadable(session: Session, split: SplitName, batch: Batch) -> Batch:
    """The batch without its unreadable images, if the config skips those.

    Each file is reported and listed once. The mean of a step is still over the planned number of images.

    Raises:
        FtkitError: Unreadable images aren't skipped; names the first file.
    """
    if session.plan.config.on_bad_image != "skip":
        return require_readable(batch)
    raise_plugin_errors(batch.failures)
    for failure in batch.failures:
        if failure.file not in session.broken:
            session.broken.add(failure.file)
            session.listener.note(one_line(f"{failure.file}: {failure.reason}; it is skipped from now on"))
            bad = BadImage(split, failure.file, failure.reason, during_run=True)
            session.run.append_list(session.run.bad_images, [bad])
    return batch


def has_enough_images(session: Session, batch: Batch, planned: int) -> bool:
    """Whether a training batch has enough readable images to train on; BatchNorm needs two.

    A batch planned without images, since the step has fewer images than parts, still takes part in the step if there
    are other processes.

    Args:
        planned: Images that the batch was planned with.

    Raises:
        FtkitError: Too few images are left, and other processes wait for this one.
    """
    if planned == 0:
        return bool(session.accelerator.num_processes > 1)
    if len(batch) >= min(2, planned):
        return True
    if session.accelerator.num_processes > 1:
        raise FtkitError(
            f"one process has no readable images left in a batch: {batch.failures[0].file}",
            "repair or remove the files listed in bad-images.jsonl in the run folder, and resume",
        )
    return False
