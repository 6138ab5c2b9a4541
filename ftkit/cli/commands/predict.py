"""`ftkit predict`: classes of images, one line per image; predictions on stdout, messages on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.image_paths import find_images
from ftkit.cli.options import DeviceChoice, PrecisionChoice, RunsFolder, TtaChoice
from ftkit.cli.output import console
from ftkit.cli.output.prediction_files import (
    Existing,
    Format,
    Target,
    check_same_model,
    prediction_target,
    skip_predicted,
)
from ftkit.data.walk import SkippedFiles
from ftkit.errors import RequestError, one_line, plural
from ftkit.metrics.finite_outputs import NOT_FINITE
from ftkit.uncertainty.set_methods import SetMethod

if TYPE_CHECKING:
    from ftkit.inference.multi_device import PredictionJob
    from ftkit.inference.predictions import Prediction
    from ftkit.inference.uncertain_predictions import Uncertainty
    from ftkit.runs.model_card import ModelCard

app = typer.Typer()

Paths = Annotated[
    list[str],
    typer.Argument(metavar="PATH...", help="Images, folders of images, quoted globs; - reads paths from stdin."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="RUN|FOLDER", help="Run, model or PLUGIN/ADDRESS; by default the latest run."
    ),
]
TopK = Annotated[int, typer.Option("--top-k", metavar="N", help="Number of classes per image.")]
To = Annotated[
    Path | None,
    typer.Option("--to", metavar="FILE", help="Write to a new .jsonl, .csv or .parquet file."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="With --to: resume a .jsonl or .csv file that an interrupted command left.")
]
Coverage = Annotated[
    float | None,
    typer.Option("--coverage", metavar="P", help="Add the smallest set of classes that holds the true one this often."),
]
SetsMethod = Annotated[SetMethod | None, typer.Option("--sets", help="How sets are made; by default lac.")]
ByClass = Annotated[bool, typer.Option("--by-class", help="With --coverage: hold it for each class.")]
MinConfidence = Annotated[
    float | None, typer.Option("--min-confidence", metavar="P", help="Predict unknown below this probability.")
]
RejectRisk = Annotated[
    float | None,
    typer.Option("--reject-risk", metavar="P", help="Predict unknown as needed for at most this part of errors."),
]
Novelty = Annotated[
    float | None,
    typer.Option("--novelty", metavar="RATE", help="Flag images unlike the validation images, at this rate of alarms."),
]
Processes = Annotated[
    int, typer.Option("--num-processes", metavar="N", min=1, help="Processes; each uses one of the GPUs, if any.")
]
Explain = Annotated[
    Path | None,
    typer.Option("--explain", metavar="FOLDER", help="Write a heat map over each image into a new folder."),
]
ExplainClass = Annotated[
    str | None,
    typer.Option("--explain-class", metavar="NAME", help="With --explain: the class; by default the predicted one."),
]


@app.command(
    epilog="Examples:\n"
    "  ftkit predict photo.jpg                              predict with the latest model\n"
    "  ftkit predict new-photos --model runs/ants --top-k 3\n"
    "  ftkit predict new-photos --explain heat-maps          show which parts of each image decide\n"
    "  find . -name '*.jpg' | ftkit predict - --format csv\n"
    "  ftkit predict archive --to predictions.jsonl --resume    write a file, and resume it when interrupted"
)
def predict(
    paths: Paths,
    model: Model = None,
    top_k: TopK = 1,
    form: Annotated[Format, typer.Option("--format", help="Output format.")] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format jsonl.")] = False,
    to: To = None,
    resume: Resume = False,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Images per batch.")] = 32,
    device: DeviceChoice = "auto",
    precision: PrecisionChoice = "auto",
    num_processes: Processes = 1,
    tta: TtaChoice = "none",
    coverage: Coverage = None,
    sets: SetsMethod = None,
    by_class: ByClass = False,
    min_confidence: MinConfidence = None,
    reject_risk: RejectRisk = None,
    novelty: Novelty = None,
    explain: Explain = None,
    explain_class: ExplainClass = None,
    output: RunsFolder = None,
) -> None:
    """Predict the class of images."""
    from ftkit.inference.uncertain_predictions import Uncertainty, check_values

    asked = Uncertainty(coverage, sets, by_class, min_confidence, reject_risk, novelty)
    check_values(asked, "--")
    others = {"--resume": resume, "--num-processes": num_processes > 1, "--tta": tta != "none"}
    others |= {"--coverage": asked.has_sets, "--min-confidence and --reject-risk": asked.abstains}
    others["--novelty"] = novelty is not None
    _check_explain(explain, explain_class, others)
    target = prediction_target(to, "jsonl" if as_json else form, resume, tta)
    target.sets, target.abstains, target.novelty = asked.has_sets, asked.abstains, novelty is not None
    if resume and (target.sets or target.abstains or target.novelty):
        raise RequestError("--resume: a file with sets, rejections or novelties can't be resumed", "drop --resume")
    bundle = model_folder(model, output)
    skipped = SkippedFiles()
    images = find_images(paths, sys.stdin, skipped)
    existing = skip_predicted(target, images, top_k)
    from ftkit.inference.multi_device import PredictionJob

    for line in _rule_notes(asked, bundle):
        console.note(line)
    job = PredictionJob(bundle, device, precision, top_k, batch_size, tta, asked)
    if explain is None:
        counts = _predict(job, images, target, existing, num_processes)
    else:
        counts = _explain(job, images, target, explain, explain_class)
    _report(counts, target, skipped)
    if counts.unreadable or counts.not_finite or skipped.suspicious:
        raise typer.Exit(1)


def _check_explain(folder: Path | None, class_name: str | None, others: Mapping[str, bool]) -> None:
    """Refuse flags that have no effect together.

    Args:
        others: Flags that heat maps aren't made with, and whether each is given.
    """
    if folder is None and class_name is not None:
        raise RequestError("--explain-class has no effect without --explain FOLDER", "add it, or drop --explain-class")
    given = next((flag for flag, there in others.items() if there), None)
    if folder is not None and given is not None:
        raise RequestError(f"--explain can't be combined with {given}", "drop one of them")


@dataclass
class _Counts:
    """Predictions by outcome, including those of the run that is resumed."""

    total: int
    unreadable: int
    not_finite: int
    abstained: int = 0
    unlike: int = 0


def _predict(job: PredictionJob, images: Iterator[Path], target: Target, existing: Existing, processes: int) -> _Counts:
    """Predict the images and write the predictions to the target."""
    from ftkit.inference.multi_device import predict_files

    first = (image for image, _, _ in existing.least_certain)
    card, predictions = predict_files(job, chain(first, images), console.warn, processes)
    check_same_model(target, existing, islice(predictions, len(existing.least_certain)))
    _note_model(job, card)
    if existing.count:
        console.note(f"{target.path}: has {plural(existing.count, 'prediction')}, resuming after {existing.last}")
    counts = _Counts(existing.count, existing.unreadable, existing.not_finite)
    _write(job, card, predictions, target, counts)
    return counts


def _explain(
    job: PredictionJob, images: Iterator[Path], target: Target, folder: Path, class_name: str | None
) -> _Counts:
    """Predict the images, write the predictions to the target, and heat maps into the folder."""
    from ftkit.inference.explained_files import INDEX, ExplainedCounts, ExplainRequest, predict_and_explain
    from ftkit.inference.multi_device import load_predictor

    predictor, explained = load_predictor(job, console.warn), ExplainedCounts()
    request = ExplainRequest(folder, class_name)
    predictions = predict_and_explain(predictor, images, request, explained, job.top_k, job.batch_size)
    _note_model(job, predictor.card)
    counts = _Counts(0, 0, 0)
    _write(job, predictor.card, predictions, target, counts)
    console.note(f"{plural(explained.written, 'heat map')} in {folder}, listed in {folder / INDEX}")
    if explained.empty:
        console.note(
            f"{explained.empty:,} of them {'is' if explained.empty == 1 else 'are'} empty: no part of the image raises "
            "the score of the class"
        )
    return counts


def _note_model(job: PredictionJob, card: ModelCard) -> None:
    views = "" if job.tta == "none" else f", test-time augmentation {job.tta}"
    console.note(f"model: {job.bundle} ({card.backbone.name}, {plural(len(card.classes), 'class')}){views}")


def _write(
    job: PredictionJob, card: ModelCard, predictions: Iterator[Prediction], target: Target, counts: _Counts
) -> None:
    """Write the predictions to the target and count them."""
    try:
        with closing(target.write(predictions, card.classes, job.top_k, _is_exclusive(card))) as written:
            for prediction in written:
                counts.total += 1
                counts.abstained += prediction.abstained
                counts.unlike += prediction.unlike
                counts.not_finite += prediction.error == NOT_FINITE
                counts.unreadable += prediction.error not in (None, NOT_FINITE)
    except KeyboardInterrupt:
        if target.resumable:
            console.note(f"{target.path} has the predictions so far: add --resume to the same command to resume")
        raise


def _rule_notes(asked: Uncertainty, bundle: Path) -> tuple[str, ...]:
    """Lines on the sets and the rejection that were asked for.

    Raises:
        RequestError: The model can't give them.
    """
    from ftkit.inference.uncertain_predictions import uncertainty_rule
    from ftkit.runs.model_card import read_card

    if asked == type(asked)():
        return ()
    card = read_card(bundle)
    return uncertainty_rule(asked, bundle, card, _is_exclusive(card)).notes


def _is_exclusive(card: ModelCard) -> bool:
    """Whether the model predicts one class for each image."""
    from ftkit.config.load import project_plugins
    from ftkit.plugins import Registry
    from ftkit.tasks.saved_task import saved_task

    return saved_task(card.task, Registry(project_plugins())).exclusive


def _report(counts: _Counts, target: Target, skipped: SkippedFiles) -> None:
    if target.path is not None:
        console.note(f"{plural(counts.total, 'prediction')} in {target.path}")
    if target.abstains:
        console.note(f"{counts.abstained} of {plural(counts.total, 'image')} predicted as unknown")
    if target.novelty:
        console.note(f"{counts.unlike} of {plural(counts.total, 'image')} unlike the validation images")
    if counts.unreadable:
        console.note(f"{counts.unreadable} of {plural(counts.total, 'file')} can't be read")
    if counts.not_finite:
        images = plural(counts.total, "image")
        console.note(f"no prediction for {counts.not_finite} of {images}: {NOT_FINITE}; try --precision fp32")
    if lines := list(skipped.lines()):
        console.note(one_line(f"skipped: {'; '.join(lines)}"))


def model_folder(spec: str | None, output: Path | None) -> Path:
    """The folder of a model that is given as `--model` or RUN.

    Args:
        output: Parent of the run folders; by default the config's `output`.
    """
    from ftkit.models.model_source import locate_model

    if output is None and (spec is None or not Path(spec).exists()):
        from ftkit.config.load import resolve

        output = Path(os.path.relpath(resolve(None, {}, [], os.environ).config.output))
    return locate_model(spec, output or Path("runs"))
