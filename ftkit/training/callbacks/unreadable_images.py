"""Images that become unreadable during a run, after the image scan."""

from __future__ import annotations

from collections.abc import Callable

from ftkit.data.loading.loader import Batch, require_readable
from ftkit.data.loading.read_failures import raise_plugin_errors
from ftkit.data.scan.image_scan import BadImage
from ftkit.errors import FtkitError, one_line
from ftkit.parts.dataset import SplitName
from ftkit.runs.run_folder import RunFolder


class UnreadableImages:
    """Leaves out images that can't be read, or ends the run, as `on_bad_image` says.

    Args:
        skip: Whether they are left out.
        note: Takes a line for each such file.
        processes: Number of processes that train together.
    """

    def __init__(self, skip: bool, run: RunFolder, note: Callable[[str], None], processes: int) -> None:
        self._skip = skip
        self._run = run
        self._note = note
        self._processes = processes
        self._reported: set[str] = set()

    def readable(self, split: SplitName, batch: Batch) -> Batch:
        """The batch, of whose files each unreadable one is reported and listed once.

        A step's mean stays one over the images that were planned for it.

        Raises:
            FtkitError: Such images aren't left out; names the file.
        """
        if not self._skip:
            return require_readable(batch)
        raise_plugin_errors(batch.failures)
        for fault in batch.failures:
            if fault.file not in self._reported:
                self._reported.add(fault.file)
                self._note(one_line(f"{fault.file}: {fault.reason}; it is skipped from now on"))
                self._run.append_list(
                    self._run.bad_images, [BadImage(split, fault.file, fault.reason, during_run=True)]
                )
        return batch

    def has_enough(self, batch: Batch) -> bool:
        """Whether a training batch has images left to learn from; BatchNorm can't from one alone.

        One that was planned without an image, since a step has fewer images than parts, is needed only where other
        processes have images in theirs.

        Raises:
            FtkitError: It hasn't, and other processes wait for this one to take part in the step.
        """
        planned = len(batch) + len(batch.failures)
        if planned == 0:
            return self._processes > 1
        if len(batch) >= min(2, planned):
            return True
        if self._processes > 1:
            file = batch.failures[0].file
            raise FtkitError(
                f"a process has no readable image left in a batch, and the others wait for it: {file}",
                "repair or remove the files that bad-images.jsonl in the run folder names, and resume",
            )
        return False
