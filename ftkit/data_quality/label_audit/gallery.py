"""The gallery of a label audit: one HTML file without outside resources, with a small copy of each image."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from ftkit.data.images import extremes, with_channels
from ftkit.data_quality.label_audit.audit import COPY, LABEL, OUTLIER, AuditedImage, LabelAudit
from ftkit.errors import one_line, plural

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 160
"""Longer side of the copies in pixels."""
QUALITY = 80

SECTIONS = {
    LABEL: ("Probable label errors", "The least probable given label first."),
    COPY: ("Copies with different labels", "At least one label of each group is wrong."),
    OUTLIER: ("Outliers", "Images that are far from all others in feature space, the farthest first."),
}

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; overflow-wrap: anywhere;
  padding: 1rem; }
ul.images { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); list-style: none;
  padding: 0; }
ul.images li { border: 1px solid var(--line); border-radius: .5rem; overflow: hidden; }
ul.images img { aspect-ratio: 1; background: var(--soft); display: block; object-fit: contain; width: 100%; }
ul.images p { font-size: .85rem; margin: .4rem .6rem; }
ul.images .name { opacity: .7; font-size: .75rem; }
table { border-collapse: collapse; }
td, th { border-bottom: 1px solid var(--line); padding: .25rem .75rem; text-align: left; }
"""


def gallery_html(audit: LabelAudit, most: int) -> str:
    """The page.

    Args:
        most: Most images of each section.
    """
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Label audit of {_text(audit.data.source)}</title><style>{STYLE}</style></head><body><main>",
            f"<h1>Label audit of {_text(audit.data.source)}</h1>",
            *(f"<p>{_text(line)}</p>" for line in _summary(audit)),
            *(part for problem in SECTIONS for part in _section(audit, problem, most)),
            *_overlaps(audit),
            "</main></body></html>",
        ]
    )


def _summary(audit: LabelAudit) -> Iterator[str]:
    yield f"{plural(audit.data.count, 'image')}; scores: {audit.scored}."
    if audit.agreement is not None:
        yield f"The likeliest class is the given label for {audit.agreement:.1%} of the images."
    yield from audit.notes


def _section(audit: LabelAudit, problem: str, most: int) -> Iterator[str]:
    found = audit.having(problem)
    if not found:
        return
    title, text = SECTIONS[problem]
    shown = "" if len(found) <= most else f" The first {most:,} of {len(found):,}; label-errors.csv has all."
    yield f"<h2>{title} ({len(found):,})</h2><p>{text}{shown}</p>"
    yield '<ul class="images">'
    for image in found[:most]:
        yield _card(audit, image)
    yield "</ul>"


def _card(audit: LabelAudit, image: AuditedImage) -> str:
    change = _text(image.given or "no label")
    if image.suggested != image.given:
        change = f"<s>{change}</s> → <b>{_text(image.suggested or 'no label')}</b>"
    facts = [] if image.score is None else [f"score {image.score:.3f}"]
    facts += [f"distance {image.distance:.2f}"] + ([image.detail] if image.detail else [])
    name = _text(image.name)
    return (
        f'<li><img alt="{name}" loading="lazy" src="{_thumbnail(audit, image)}"><p>{change}</p>'
        f'<p>{_text("; ".join(facts))}</p><p class="name">{name} ({_text(image.split)})</p></li>'
    )


def _thumbnail(audit: LabelAudit, image: AuditedImage) -> str:
    """A small JPEG copy as a data URL; an empty one if the image can't be read any more."""
    _, split, index = audit.data.place(image.row)
    try:
        small = _small(split.open(index))
    except Exception:  # decoders raise any exception for damaged files
        return "data:,"
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _small(image: Image) -> Image:
    own = extremes(image)
    rgb = with_channels(image, 3, None if own is None else (own.low, max(own.high, own.low + 1)))
    rgb.thumbnail((SIDE, SIDE))
    return rgb


def _overlaps(audit: LabelAudit) -> Sequence[str]:
    if not audit.overlaps:
        return ()
    rows = "".join(f"<tr><td>{_text(a)}</td><td>{_text(b)}</td><td>{s:.2%}</td></tr>" for a, b, s in audit.overlaps)
    head = "<tr><th>class</th><th>class</th><th>share of all images</th></tr>"
    return (f"<h2>Overlapping classes</h2><p>Images with one label that are probably of the other class.</p>"
            f"<table>{head}{rows}</table>",)  # fmt: skip


def _text(text: str) -> str:
    return escape(one_line(text))
