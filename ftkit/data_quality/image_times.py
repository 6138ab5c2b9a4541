"""The time of each image: its EXIF date, or a column of a CSV file."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from ftkit.data.images import SampleFiles, open_header
from ftkit.data_quality.dataset_request import LoadedData, table_column
from ftkit.errors import RequestError, plural

EXIF = "exif"
EXIF_IFD, ORIGINAL, CHANGED = 0x8769, 0x9003, 0x0132
"""The EXIF block of the camera, the time in it at which the image was taken, and the time of the last change."""
NAMED = 3

Times = NDArray[np.float64]


def image_times(data: LoadedData, spec: str, flag: str = "--time") -> Times:
    """The time of each image in the order of `LoadedData.samples`, as numbers in the order of the times.

    Args:
        spec: `exif`, or a column with dates (ISO 8601 or as in EXIF) or numbers.
        flag: For messages.

    Raises:
        RequestError: An image has no time, or a value is neither a date nor a number.
    """
    if spec == EXIF:
        found = [_exif_time(file) for _, split in data.splits.present() for file in SampleFiles(split)]
    else:
        values = table_column(data, spec, flag)
        found = [_parsed(values.get(split.names[i], "")) for _, split, i in data.samples()]
    missing = [split.names[i] for time, (_, split, i) in zip(found, data.samples(), strict=True) if time is None]
    if missing:
        few = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        what = "no EXIF date" if spec == EXIF else f"no date or number in column {spec!r}"
        raise RequestError(
            f"{flag} {spec}: {plural(len(missing), 'image has', 'images have')} {what}: {few}",
            "correct or remove them; dates are like 2024-05-31 or 2024-05-31T12:00",
        )
    return np.array(found, dtype=np.float64)


def _exif_time(file: str | None) -> float | None:
    if file is None:
        return None
    try:
        with open_header(file) as image:
            exif = image.getexif()
            value = exif.get_ifd(EXIF_IFD).get(ORIGINAL) or exif.get(CHANGED)
    except Exception:  # decoders raise any exception for damaged files
        return None
    return _parsed(str(value)) if value else None


def _parsed(text: str) -> float | None:
    """A number, or the seconds of a date; a date without a time zone is taken as UTC."""
    text = text.strip().strip("\0")
    try:
        number = float(text)
        return number if isfinite(number) else None
    except ValueError:
        pass
    date = text.replace(":", "-", 2) if text[4:5] == ":" else text
    try:
        found = datetime.fromisoformat(date)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
