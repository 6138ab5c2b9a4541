"""Files of a labelling queue: a CSV table, and tasks of Label Studio with the predictions as suggestions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves files below its document root (LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT)."""
CSV_COLUMNS = ("image", "label", "rank", "predicted", "probability", "margin")
"""`label` is empty, to be filled in: with it, the file is one of dataset `csv`."""


@dataclass(frozen=True)
class QueuedImage:
    """An image to label.

    Attributes:
        name: Its path relative to the folder that was searched.
        predicted: The predicted classes, which may be none where an image may have several.
        probability: Of the likeliest class.
        margin: See `Queue`.
    """

    name: str
    predicted: tuple[str, ...]
    probability: float
    margin: float


def csv_rows(images: Sequence[QueuedImage]) -> list[tuple[object, ...]]:
    return [
        (image.name, "", rank, "|".join(image.predicted), f"{image.probability:.4f}", f"{image.margin:.4f}")
        for rank, image in enumerate(images, 1)
    ]


def label_studio_tasks(images: Sequence[QueuedImage], model: str, prefix: str, exclusive: bool) -> list[dict[str, Any]]:
    """Tasks for a labelling interface with `<Image name="image" value="$image"/>` and `<Choices name="choice"
    toName="image">`.

    Args:
        model: Name of the model.
        prefix: Put before the quoted path of each image.
        exclusive: Whether an image has exactly one class.
    """
    return [
        {
            "data": {"image": prefix + quote(image.name), "path": image.name, "rank": rank, "margin": image.margin},
            "predictions": [
                {
                    "model_version": model,
                    "score": image.probability,
                    "result": [
                        {
                            "from_name": "choice",
                            "to_name": "image",
                            "type": "choices",
                            "value": {"choices": list(image.predicted)},
                        }
                    ],
                }
            ]
            if image.predicted or not exclusive
            else [],
        }
        for rank, image in enumerate(images, 1)
    ]
