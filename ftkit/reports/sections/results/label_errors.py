"""Images whose label is probably wrong, by confident learning on outputs of models that weren't trained on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ftkit.data_quality.label_audit.confident_learning import Suspects, find_suspects
from ftkit.errors import RequestError
from ftkit.evaluation.out_of_fold import read_out_of_fold
from ftkit.metrics.finite_outputs import finite_rows
from ftkit.metrics.multiclass_outputs import MulticlassOutputs
from ftkit.metrics.multilabel_outputs import MultilabelOutputs
from ftkit.parts.dataset import Split
from ftkit.parts.label_sets import label_text
from ftkit.reports.label_figure import label_figure
from ftkit.reports.markup import Html, tag
from ftkit.reports.page_parts import hint
from ftkit.reports.picture_figure import gallery
from ftkit.reports.report_data import Evaluated, ReportData
from ftkit.reports.section import Omitted

SHOWN = 24
"""Images that are shown of each split."""
TRAINING = "Training images, by their out-of-fold predictions"
EXPLANATION = (
    "Images for which a class other than the label is likely, the least probable label first (confident learning). "
    "The lower the accuracy of the model, the more of these labels are right. Under each picture: its label, the "
    "suggested one, and the probability of the label."
)


@dataclass(frozen=True)
class _Source:
    """Images with their suspects."""

    title: str
    split: Split
    suspects: Suspects


def label_errors(data: ReportData) -> Html | Omitted:
    """Galleries of the probable label errors of the evaluated images and, after cross-fitting, the training images."""
    evaluated = data.evaluated
    if isinstance(evaluated, Omitted):
        return evaluated
    if not isinstance(evaluated.outputs, MulticlassOutputs | MultilabelOutputs):
        return Omitted("the task has outputs of a kind of its own")
    try:
        sources = list(_sources(data, evaluated))
    except RequestError as error:
        return Omitted(error.message)
    if not any(len(source.suspects.rows) for source in sources):
        return Omitted("no label of the evaluated images is probably wrong")
    parts = [_part(data, source, evaluated.outputs.classes) for source in sources if len(source.suspects.rows)]
    command = " ftkit data audit looks for them in all images of a dataset, with copies and outliers."
    return tag("div", hint(EXPLANATION, command), parts)


def _sources(data: ReportData, evaluated: Evaluated) -> Iterator[_Source]:
    outputs, images = evaluated.outputs, evaluated.images
    suspects = find_suspects(outputs.scores, outputs.targets, outputs.finite, evaluated.model.task.exclusive)
    if images.outputs is not None:
        yield _Source(TRAINING, images.split, suspects)
        return
    yield _Source(f"Images of the split {images.name}", images.split, suspects)
    if data.splits is None or data.splits.train is None:
        return
    run = data.summary.run
    if not run.out_of_fold.is_file():
        return
    stored, task, train = read_out_of_fold(run.path), evaluated.model.task, data.splits.train
    if list(stored.names) != list(train.names):
        raise RequestError("the training images aren't those of the run's out-of-fold outputs")
    has_scores = finite_rows(stored.logits).numpy()
    found = find_suspects(task.scores(stored.logits).numpy(), stored.targets.numpy(), has_scores, task.exclusive)
    yield _Source(TRAINING, train, found)


def _part(data: ReportData, source: _Source, classes: tuple[str, ...]) -> Html:
    suspects, split, figures = source.suspects, source.split, []
    rows = suspects.rows.tolist()[:SHOWN]
    data.thumbnails.prepare(split, rows)
    for row, suggested in zip(rows, suspects.suggested, strict=False):
        labels = label_text(split.labels[row], classes), label_text(suggested, classes)
        figure = label_figure(data.thumbnails, split, row, labels, float(suspects.own[row]))
        if figure is not None:
            figures.append(figure)
    title = f"{source.title}: {len(figures):,} of {len(suspects.rows):,}"
    return tag("div", tag("h3", title, class_="spaced"), gallery(figures))
