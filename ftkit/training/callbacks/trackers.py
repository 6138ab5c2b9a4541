"""Records sent to TensorBoard, Weights & Biases and MLflow as well, through accelerate's trackers.

A run is one run there too, however often it is stopped: what was sent, and to which run, is in the run
folder. An epoch that is trained again after a resume is the same bit for bit, so it isn't sent again.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, WandBTracker
from torch import Tensor

from ftkit.config.load import to_yaml
from ftkit.errors import FtkitError, one_line
from ftkit.files.durable import replace_file
from ftkit.files.json_text import dump_json
from ftkit.training.callbacks.trainer_callback import TrainerCallback

if TYPE_CHECKING:
    from ftkit.config.schema import Config
    from ftkit.metrics.report import Evaluation
    from ftkit.runs.averages import Average
    from ftkit.training.session import Session

PROJECT = "ftkit"
"""The project in Weights & Biases, the experiment in MLflow."""
LARGEST_PICTURE = 1000
"""Most classes for which trackers get the whole confusion matrix; beyond, its pairs that aren't zero."""
LARGEST_TABLE = 20
"""Most classes for which TensorBoard gets the confusion matrix in numbers beside the picture."""
PICTURE = 320
"""Side of the picture in pixels, about."""

FAILURES = (Exception, SystemExit)
"""What a tracker's own package, file system or server may raise."""


@dataclass
class Sent:
    """What was sent, as the run folder has it.

    Attributes:
        epoch: The last one sent; -1 before the first.
        ids: The run's id in each tracker that has ids.
        missed: Epochs that a tracker failed to take, by tracker.
        averages: The last epoch whose averages of weights were sent.
    """

    epoch: int = -1
    ids: dict[str, str] = field(default_factory=dict)
    missed: dict[str, list[int]] = field(default_factory=dict)
    averages: int = -1


class Trackers(TrainerCallback):
    """Sends the run to each tracker that the config names; in the main process alone."""

    order = 300

    def on_open(self) -> None:
        """Start the run in each tracker, or resume it there.

        Raises:
            FtkitError: A tracker can't be started; names it and the reason.
        """
        session, names = self.trainer.session, self.trainer.session.plan.config.tracker
        if not names:
            return
        known = session.run.trackers.exists()
        sent = _sent(session)
        for name in dict.fromkeys(names):
            try:
                _start(session, name, sent, known)
            except FAILURES as error:
                self.on_exit(None)
                raise FtkitError(f"--tracker {name}: {_reason(error)}", "fix it, or drop it") from error
        _record_sent(session, sent)

    def on_epoch_recorded(self, record: Mapping[str, Any]) -> None:
        """Send one epoch's record to each tracker, unless it was sent before the run was stopped.

        A tracker that fails loses its own records, and affects neither the training nor other trackers: everything is
        in the run folder anyway. Its first failure is reported at once, and all of its missing epochs at the end.
        """
        session, epoch = self.trainer.session, record["epoch"]
        sent, evaluation = _sent(session), self.trainer.validation.trained.evaluation
        if not session.accelerator.trackers or epoch <= sent.epoch:
            return

        def send(tracker: Any) -> None:
            tracker.log(scalars(record), step=epoch)
            if evaluation.has_confusion:
                _CONFUSION[tracker.name](tracker, evaluation, epoch)

        self._send(sent, epoch, send)
        sent.epoch = epoch
        _record_sent(session, sent)

    def on_averages(self, averages: Sequence[Average]) -> None:
        """Send the metrics of the average that is the model, as `average/accuracy`, at the last epoch."""
        session, epoch = self.trainer.session, self.trainer.session.progress.epoch
        kept, sent = next((each for each in averages if each.kept), None), _sent(session)
        if kept is None or not session.accelerator.trackers or epoch <= sent.averages:
            return
        metrics = {f"average_{key.removeprefix('val_')}": value for key, value in (kept.metrics or {}).items()}
        self._send(sent, epoch, lambda tracker: tracker.log(scalars(metrics), step=epoch))
        sent.averages = epoch
        _record_sent(session, sent)

    def _send(self, sent: Sent, epoch: int, send: Callable[[Any], None]) -> None:
        """Send to each tracker; one that fails is reported, and lacks the epoch."""
        session = self.trainer.session
        for tracker in session.accelerator.trackers:
            try:
                send(tracker)
            except FAILURES as error:
                missed = sent.missed.setdefault(tracker.name, [])
                if not missed:
                    session.listener.note(
                        f"tracker {tracker.name} failed at epoch {epoch}: {_reason(error)}; the training and other "
                        "trackers continue, and its missing epochs are listed at the end"
                    )
                missed.append(epoch)

    def on_exit(self, error: BaseException | None) -> None:
        """Finish sending, and report what wasn't sent; the run in the trackers can be resumed."""
        session = self.trainer.session
        for tracker in session.accelerator.trackers:
            try:
                tracker.finish()
            except FAILURES as failure:
                session.listener.note(f"tracker {tracker.name} failed to finish: {_reason(failure)}")
            missed = _sent(session).missed.get(tracker.name)
            if missed:
                session.listener.note(f"tracker {tracker.name} lacks epoch {', '.join(map(str, missed))}")
        session.accelerator.trackers.clear()


def _start(session: Session, name: str, sent: Sent, known: bool) -> None:
    tracker: Any = _MAKE[name](session, sent)
    tracker.start()
    session.accelerator.trackers.append(tracker)
    if not known:
        _send_config(tracker, session.plan.config)
    if name == "mlflow":
        sent.ids[name] = tracker.tracker.info.run_id


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(str(error))}"


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """An epoch's record as one level of names: `train/loss`, `val/accuracy`, `lr/head`, `weight_drift/head`."""
    flat: dict[str, float | None] = {}
    for key, value in record.items():
        part, _, name = key.partition("_")
        if isinstance(value, Mapping):
            flat |= {f"{key}/{group}": number for group, number in value.items()}
        elif not isinstance(value, str) and key != "epoch":
            flat[f"{part}/{name}" if part in ("train", "val", "average") else key] = value
    return {name: float(value) for name, value in flat.items() if value is not None and math.isfinite(value)}


def flattened(config: Config) -> dict[str, bool | int | float | str]:
    """The config by dotted keys, with values that every tracker takes."""
    flat: dict[str, bool | int | float | str] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                add(f"{prefix}.{key}" if prefix else str(key), item)
        else:
            flat[prefix] = value if isinstance(value, bool | int | float | str) else dump_json(value)

    add("", config.model_dump(mode="json"))
    return flat


def picture(confusion: tuple[tuple[int, ...], ...]) -> Tensor:
    """The confusion matrix as uint8 `(3, side, side)`: a row per true class, bluer for a larger part."""
    counts = torch.tensor(confusion, dtype=torch.float64)
    light = (255 * (1 - counts / counts.sum(dim=1, keepdim=True).clamp(min=1))).to(torch.uint8)
    cell = max(1, PICTURE // len(confusion))
    light = light.repeat_interleave(cell, dim=0).repeat_interleave(cell, dim=1)
    return torch.stack([light, light, torch.full_like(light, 255)])


def _tensorboard(session: Session, sent: Sent) -> GeneralTracker:
    # A later step was sent before a kill and not recorded.
    purge = {"purge_step": sent.epoch + 1} if session.run.trackers.exists() else {}
    return TensorBoardTracker("tensorboard", str(session.run.path), **purge)


def _wandb(session: Session, sent: Sent) -> GeneralTracker:
    identity = sent.ids.setdefault("wandb", uuid.uuid4().hex)
    return WandBTracker(PROJECT, id=identity, name=session.run.name, dir=str(session.run.path), resume="allow")


def _mlflow(session: Session, sent: Sent) -> GeneralTracker:
    return MLflowTracker(PROJECT, run_id=sent.ids.get("mlflow"), run_name=session.run.name)


def _send_config(tracker: GeneralTracker, config: Config) -> None:
    if not isinstance(tracker, TensorBoardTracker):
        tracker.store_init_configuration(flattened(config))
        return
    # accelerate's own way creates a second run in TensorBoard's list, named by the time.
    from torch.utils.tensorboard.summary import hparams

    for summary in hparams(flattened(config), {}):  # type: ignore[no-untyped-call]
        tracker.writer.file_writer.add_summary(summary)
    tracker.writer.add_text("config", "    " + to_yaml(config).replace("\n", "\n    "))
    tracker.writer.flush()


def _confusion_to_tensorboard(tracker: Any, evaluation: Evaluation, epoch: int) -> None:
    if len(evaluation.classes) > LARGEST_PICTURE:
        return
    tracker.writer.add_image("val/confusion", picture(evaluation.confusion), epoch)
    if len(evaluation.classes) <= LARGEST_TABLE:
        tracker.writer.add_text("val/confusion", _markdown(evaluation), epoch)
    tracker.writer.flush()


def _confusion_to_wandb(tracker: Any, evaluation: Evaluation, epoch: int) -> None:
    names = list(evaluation.classes)
    if len(names) > LARGEST_PICTURE:
        pairs = [[names[true], names[taken], images] for true, taken, images in evaluation.pairs.tolist()]
        tracker.log_table("val/confusion", columns=["true class", "taken for", "images"], data=pairs, step=epoch)
        return
    rows = [[name, *row] for name, row in zip(names, evaluation.confusion, strict=True)]
    tracker.log_table("val/confusion", columns=["true class", *names], data=rows, step=epoch)


def _confusion_to_mlflow(tracker: Any, evaluation: Evaluation, epoch: int) -> None:
    import mlflow

    found = evaluation.to_json()
    content: dict[str, Any] = {key: found[key] for key in ("confusion", "confusion_pairs") if key in found}
    content["classes"] = list(evaluation.classes)
    mlflow.log_dict(content, f"confusion/epoch-{epoch:04d}.json")


def _markdown(evaluation: Evaluation) -> str:
    names = [one_line(name).replace("|", "\\|") for name in evaluation.classes]
    lines = [["true \\ predicted", *names], ["---"] * (len(names) + 1)]
    lines += [[name, *map(str, row)] for name, row in zip(names, evaluation.confusion, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _sent(session: Session) -> Sent:
    path = session.run.trackers
    return Sent(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Sent()


def _record_sent(session: Session, sent: Sent) -> None:
    replace_file(session.run.trackers, dump_json(asdict(sent)).encode())


_MAKE: Mapping[str, Callable[[Session, Sent], GeneralTracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
_CONFUSION: Mapping[str, Callable[[Any, Evaluation, int], None]] = {
    "tensorboard": _confusion_to_tensorboard,
    "wandb": _confusion_to_wandb,
    "mlflow": _confusion_to_mlflow,
}
