"""Training progress on stderr: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ftkit.cli.output import console
from ftkit.distributed import launch_env
from ftkit.errors import one_line, plural
from ftkit.metrics.selection import EPOCH_METRICS
from ftkit.training.events import EpochDone, Listener, RunStarted, StepDone

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ftkit.planning.run_plan import Plan
    from ftkit.runs.run_folder import RunFolder
    from ftkit.strategies.schedule import Phase


def make_display(run: RunFolder, epochs: int, quiet: bool) -> Display:
    """A live display on a terminal, else plain lines."""
    live = sys.stderr.isatty() and not quiet
    return LiveDisplay(run, epochs) if live else Display(run, epochs, quiet)


class Display(Listener):
    """One line per epoch, on stderr and in the run's log."""

    def __init__(self, run: RunFolder, epochs: int, quiet: bool = False) -> None:
        self.run = run
        self.epochs = epochs
        self.quiet = quiet
        self.labels: Mapping[str, str] = {}
        self.accuracy = "accuracy"

    def print_line(self, text: str) -> None:
        if launch_env.rank() == 0:
            self.run.write_log([text])
        if not self.quiet:
            console.err().print(text, soft_wrap=True)

    def started(self, event: RunStarted) -> None:
        self.labels, self.accuracy = shown_labels(event.plan), event.plan.task.accuracy
        evaluated = event.evaluation_precision
        other = f", evaluated in {evaluated}" if evaluated not in ("", event.precision) else ""
        reason = f" ({event.precision_reason})" if event.precision_reason else ""
        where = f"on {event.device} in {event.precision}{other}{reason}, {plural(event.workers, 'worker')}"
        again = "" if event.resumed is None else f", resumed after epoch {event.resumed}"
        self.print_line(f"run {event.run} {where}{again}")
        if event.loaded:
            self.print_line(f"weights: {event.loaded}")

    def phase_started(self, phase: Phase, trainable: int) -> None:
        groups = ", ".join(sorted(phase.trainable))
        first, last = phase.start + 1, phase.stop
        epochs = f"epoch {first}" if first == last else f"epochs {first}-{last}"
        verb = "trains" if len(phase.trainable) == 1 else "train"
        self.print_line(f"{epochs}: {groups} {verb} ({plural(trainable, 'parameter')})")

    def epoch_done(self, event: EpochDone) -> None:
        self.print_line(epoch_line(event.record, self.epochs, event.is_best, self.labels, self.accuracy))

    def note(self, text: str) -> None:
        self.print_line(f"note: {text}")


class LiveDisplay(Display):
    """The same lines above a progress bar with loss, learning rate, images per second and remaining time."""

    def __init__(self, run: RunFolder, epochs: int) -> None:
        super().__init__(run, epochs)
        self.progress: Progress | None = None
        self.task: TaskID | None = None

    def __enter__(self) -> LiveDisplay:
        return self

    def step_done(self, event: StepDone) -> None:
        progress = self.progress or self._start(event.steps)
        assert self.task is not None, "set by _start"
        progress.update(
            self.task,
            completed=(event.epoch - 1) * event.steps + event.step,
            description=f"epoch {event.epoch}/{self.epochs}",
            loss=f"loss {event.loss:.4f}",
            rate=f"lr {max(event.rates.values()):.2g}",
            speed=f"{event.images_per_second:.0f} images/s",
        )

    def print_line(self, text: str) -> None:
        if self.progress is None:
            super().print_line(text)
            return
        self.run.write_log([text])
        self.progress.console.print(text, soft_wrap=True)

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def _start(self, steps: int) -> Progress:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        texts = [TextColumn(f"{{task.fields[{name}]}}") for name in ("loss", "rate", "speed")]
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *texts,
            TimeRemainingColumn(),
            console=console.err(),
            transient=True,
        )
        self.task = self.progress.add_task("", total=steps * self.epochs, loss="", rate="", speed="")
        self.progress.start()
        return self.progress


def shown_labels(plan: Plan) -> dict[str, str]:
    """Labels of the metrics that are shown for each epoch, by name."""
    config = plan.config
    names = (*EPOCH_METRICS, config.monitor, *(choice.name for choice in config.metrics))
    return {name: one_line(plan.metrics[name].label) for name in names if name in plan.metrics}


def epoch_line(
    record: Mapping[str, Any], epochs: int, is_best: bool, labels: Mapping[str, str], accuracy: str = "accuracy"
) -> str:
    """An epoch on one line, marked if it is the best so far.

    Args:
        labels: The metrics to show, by name.
        accuracy: What the task calls its accuracy.
    """
    width = len(str(epochs))
    parts = [f"epoch {record['epoch']:>{width}}/{epochs}"]
    if "train_loss" in record:
        parts.append(f"train loss {record['train_loss']:.4f} {accuracy} {record['train_accuracy']:.4f}")
    parts.append(f"val {metrics_line(record, labels, ' ')}")
    parts.append(f"{record['seconds']:.1f} s")
    return "  ".join(parts) + ("  best" if is_best else "")


def metrics_line(record: Mapping[str, Any], labels: Mapping[str, str], between: str = ", ") -> str:
    """Validation metrics with their labels; metrics without a value are left out."""
    values = {label: record.get(f"val_{name}") for name, label in labels.items()}
    return between.join(f"{label} {value:.4f}" for label, value in values.items() if value is not None)
