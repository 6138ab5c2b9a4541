"""The audit of a dataset's labels: probable label errors, contradicting copies, outliers and overlapping classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ftkit.activation_cache.cache_reader import Note
from ftkit.config.load import Resolved
from ftkit.data.loading.seeds import derive
from ftkit.data_quality.dataset_request import LoadedData
from ftkit.data_quality.duplicate_groups import members
from ftkit.data_quality.label_audit.audit_images import AuditImages, audit_images, audit_plan
from ftkit.data_quality.label_audit.confident_learning import Suspects, find_suspects, overlapping_classes
from ftkit.data_quality.label_audit.neighbours import neighbour_distances, outliers
from ftkit.data_quality.label_audit.out_of_fold_probe import (
    choose_folds,
    components,
    head_scores,
    label_set_folds,
    probe_scores,
)
from ftkit.errors import RequestError, plural
from ftkit.evaluation.out_of_fold import read_out_of_fold
from ftkit.parts.label_sets import Label, LabelSets, label_set, label_text

LABEL, COPY, OUTLIER = "label", "duplicate", "outlier"
"""Problems of an image."""
MOST_OVERLAPS = 20
WEAK = 0.8
"""Agreement of scores and labels below which the number of wrong labels is overestimated much."""

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class AuditedImage:
    """An image with a problem.

    Attributes:
        row: Its number in the order of `LoadedData.samples`.
        given, suggested: Class names; the suggestion is the given label for an outlier.
        problems: Of `label`, `duplicate` and `outlier`.
        score: The out-of-fold probability of the given label; of several labels, that of the least probable one. None
            for an image without scores.
        distance: Mean cosine distance to the nearest images, divided by the median of all images.
    """

    row: int
    split: str
    name: str
    given: str
    suggested: str
    problems: tuple[str, ...]
    score: float | None
    distance: float
    detail: str = ""


@dataclass(frozen=True)
class LabelAudit:
    """The result of an audit.

    Attributes:
        data: The images that were audited.
        scored: What the scores are from.
        agreement: The share of images whose likeliest class by the scores is the given one; None with several labels
            per image, as the next one. The lower it is, the more right labels are among the probable errors.
        rate: The share of wrong labels that confident learning estimates; too high where the agreement is low.
        images: Images with problems: probable label errors, the least probable label first, then contradicting copies,
            then outliers.
        overlaps: Pairs of classes, with the estimated share of all images that have one label and are of the other.
        notes: Lines to report.
        value_range: See `Preprocessing`.
    """

    data: LoadedData
    scored: str
    agreement: float | None
    rate: float | None
    images: tuple[AuditedImage, ...]
    overlaps: tuple[tuple[str, str, float], ...]
    notes: tuple[str, ...]
    value_range: tuple[float, float] | None = None

    def having(self, problem: str) -> list[AuditedImage]:
        """The images with a problem, the worst first."""
        found = [image for image in self.images if problem in image.problems]
        return sorted(found, key=lambda image: -image.distance) if problem == OUTLIER else found

    def to_json(self) -> dict[str, Any]:
        return {
            "data": self.data.source,
            "images": self.data.count,
            "scores": self.scored,
            "agreement": self.agreement,
            "estimated_error_rate": self.rate,
            "counts": {problem: len(self.having(problem)) for problem in (LABEL, COPY, OUTLIER)},
            "problems": [{k: v for k, v in vars(image).items() if k != "row"} for image in self.images],
            "overlapping_classes": [{"classes": [a, b], "share": share} for a, b, share in self.overlaps],
            "notes": self.notes,
        }


CSV_COLUMNS = ("image", "split", "given", "label", "action", "problems", "score", "distance", "detail")
"""`ftkit data fix` reads image, label and action; a person fills in the action."""


def csv_rows(audit: LabelAudit) -> list[tuple[object, ...]]:
    return [
        (
            image.name, image.split, image.given, image.suggested, "", "|".join(image.problems),
            "" if image.score is None else f"{image.score:.4f}", f"{image.distance:.3f}", image.detail,
        )
        for image in audit.images
    ]  # fmt: skip


def audit_labels(resolved: Resolved, run: Path | None, tell: Note) -> LabelAudit:
    """Audit the labels of a dataset.

    Args:
        run: The folder of a cross-fitted run, whose stored out-of-fold outputs are used; None to compute those of a
            probe on the features of a pretrained network.
        tell: Called with lines on the progress.

    Raises:
        RequestError: The data or the network can't be used.
        FtkitError: The weights can't be downloaded, or an image can't be read.
    """
    plan = audit_plan(resolved, tell)
    images = audit_images(plan, tell)
    if run is None:
        scores, has_scores = _probed(images)
        scored = f"out-of-fold probe on features of {plan.backbone.name}"
    else:
        scores, has_scores = _stored(images, run)
        scored = f"out-of-fold outputs of {run}"
    suspects = find_suspects(scores, images.targets.numpy(), has_scores, plan.task.exclusive)
    notes = list(images.notes)
    if not has_scores.all():
        notes.append(f"{plural(int((~has_scores).sum()), 'image')} without scores: {_why_without_scores(run)}")
    joint, classes = suspects.joint, plan.splits.classes
    pairs = [] if joint is None else overlapping_classes(joint)[:MOST_OVERLAPS]
    agreement = None if joint is None else _agreement(images, scores, has_scores)
    if agreement is not None and agreement < WEAK:
        notes.append(
            f"the scores agree with {agreement:.1%} of the labels, so many of the labels listed are right: another "
            "--backbone, a larger --image-size or a cross-fitted run may list fewer"
        )
    return LabelAudit(
        data=images.data,
        scored=scored,
        agreement=agreement,
        rate=None if joint is None else float(1 - np.trace(joint)),
        images=_listed(images, suspects),
        overlaps=tuple((classes[a], classes[b], share) for a, b, share in pairs),
        notes=tuple(notes),
        value_range=plan.preprocessing.value_range,
    )


def _agreement(images: AuditImages, scores: Floats, has_scores: NDArray[np.bool_]) -> float:
    labels = images.targets.numpy()[has_scores]
    return float((scores[has_scores].argmax(axis=1) == labels).mean()) if len(labels) else 0.0


def _why_without_scores(run: Path | None) -> str:
    if run is not None:
        return "the run has none for them; only copies and outliers are looked for among these"
    return "no other image of their class is in another fold"


def _probed(images: AuditImages) -> tuple[Floats, NDArray[np.bool_]]:
    """The scores of a probe, `(n, classes)`, and which images have some."""
    plan, groups = images.plan, images.duplicates.near
    seed, classes = derive(plan.config.seed, "audit") % 2**32, plan.num_classes
    x = components(images.features)
    if plan.task.exclusive:
        labels = images.targets.numpy()
        return probe_scores(x, labels, choose_folds(labels, groups, seed), classes, seed)
    sets = LabelSets((label_set(label) for label in images.data.labels()), classes)
    scores = head_scores(x, images.targets, plan.task, label_set_folds(sets, groups, seed), seed)
    return scores, np.ones(len(scores), dtype=np.bool_)


def _stored(images: AuditImages, run: Path) -> tuple[Floats, NDArray[np.bool_]]:
    """The stored out-of-fold scores of a run, matched by the names of its training images."""
    found = read_out_of_fold(run)
    places = {name: place for place, name in enumerate(found.names)}
    order = torch.tensor(
        [places.get(split.names[i], -1) if name != "test" else -1 for name, split, i in images.data.samples()]
    )
    has_scores = order >= 0
    if not has_scores.any() or found.logits.shape[1] != images.plan.num_classes:
        raise RequestError(f"{run}: its stored outputs are of other images or classes", "train the run again")
    scores = torch.zeros(len(order), images.plan.num_classes)
    scores[has_scores] = images.plan.task.scores(found.logits[order[has_scores]])
    return scores.numpy(), has_scores.numpy()


def _listed(images: AuditImages, suspects: Suspects) -> tuple[AuditedImage, ...]:
    """Every image with a problem once, label errors first."""
    distances = neighbour_distances(images.features)
    relative = distances / (float(np.median(distances)) or 1.0)
    labels = list(images.data.labels())
    copies, suggested = _contradicting(images, labels, suspects.own), list(labels)
    for row, (label, _) in copies.items():
        suggested[row] = label
    suspected: list[int] = suspects.rows.tolist()
    for row, label in zip(suspected, suspects.suggested, strict=True):
        suggested[row] = label
    far = outliers(distances).tolist()
    problems = {LABEL: set(suspected), COPY: set(copies), OUTLIER: set(far)}
    found, classes = [], images.data.splits.classes
    for row in dict.fromkeys((*suspected, *copies, *far)):
        name, split, index = images.data.place(row)
        score = suspects.own[row]
        found.append(
            AuditedImage(
                row=row,
                split=name,
                name=split.names[index],
                given=label_text(labels[row], classes),
                suggested=label_text(suggested[row], classes),
                problems=tuple(problem for problem, rows in problems.items() if row in rows),
                score=None if np.isnan(score) else float(score),
                distance=float(relative[row]),
                detail=copies[row][1] if row in copies else "",
            )
        )
    return tuple(found)


def _contradicting(images: AuditImages, labels: Sequence[Label], own: Floats) -> Mapping[int, tuple[Label, str]]:
    """The suggested label of each image with a copy of another label: the most frequent one, of equals the most
    probable one; and the copy."""
    found: dict[int, tuple[Label, str]] = {}
    for rows in members(images.duplicates.near):
        counts: Counter[Label] = Counter(labels[row] for row in rows)
        if len(counts) < 2:
            continue
        best = {label: max(np.nan_to_num(own[row]) for row in rows if labels[row] == label) for label in counts}
        chosen = max(counts, key=lambda label: (counts[label], best[label]))
        for row in rows.tolist():
            other = next(one for one in rows.tolist() if labels[one] != labels[row])
            name, split, index = images.data.place(other)
            found[row] = chosen, f"copy of {split.names[index]} ({name}, {images.data.label_text(split, index)})"
    return found
