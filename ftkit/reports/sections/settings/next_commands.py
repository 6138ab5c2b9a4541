"""Commands to repeat the run, to go on with it, and to use its model."""

from __future__ import annotations

from collections.abc import Iterator

from ftkit.errors import shell_word
from ftkit.reports.markup import Html, tag
from ftkit.reports.page_parts import hint
from ftkit.reports.report_data import ReportData


def next_commands(data: ReportData) -> Html:
    """Each command with what it does."""
    rows = [
        tag(
            "div",
            tag("dt", what),
            tag(
                "dd",
                tag("code", command),
                tag("button", "Copy", type="button", class_="copy", aria_label=f"Copy: {what}"),
            ),
        )
        for what, command in _commands(data)
    ]
    return tag("div", hint("In the folder in which the run was started."), tag("dl", rows, class_="commands"))


def _commands(data: ReportData) -> Iterator[tuple[str, str]]:
    run, summary = shell_word(data.summary.run.path), data.summary
    processes = f" --num-processes {summary.processes}" if summary.processes > 1 else ""
    if summary.state in ("stopped", "pruned"):
        yield "Resume the run", f"ftkit train --resume {run}{processes}"
    yield "Train it again", f"ftkit train --config {shell_word(summary.run.config)}{processes}"
    if summary.state == "finished" and not summary.fold_sizes:
        yield "Train it for more epochs", f"ftkit train --resume {run} --extend 5{processes}"
    if data.card is not None:
        yield "Evaluate it", f"ftkit evaluate {run}"
        yield "List the mistakes", f"ftkit evaluate {run} --mistakes mistakes.csv"
        yield "Predict images", f"ftkit predict IMAGE_OR_FOLDER --model {run}"
        yield "Export it", f"ftkit export {run} --format torch-export --to exported"
    yield "Write this report again", f"ftkit report {run}"
