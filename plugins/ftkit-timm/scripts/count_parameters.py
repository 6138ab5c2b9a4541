"""Writes `ftkit_timm/parameters.json`, the number of parameters of each architecture of the installed timm.

Run it after an upgrade of timm: `python scripts/count_parameters.py`. It takes minutes and needs no network. The counts
are stored by source file of timm, with the file's digest: after an upgrade those of changed files are no longer used.
"""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import suppress
from importlib.metadata import version

import timm
from ftkit_timm import ftkit_backbones
from ftkit_timm.parameters import TABLE, source_digest, source_of

from ftkit.api import RequestError
from ftkit.models.model_size import group_parameters


def main() -> None:
    counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
    models = ftkit_backbones()
    for name in timm.list_models():
        with suppress(RequestError):  # a part of other models, without a classifier
            counts[source_of(name)][name] = sum(group_parameters(models[name]).values())
    rows = ",\n".join(
        f"{json.dumps(source)}: {json.dumps({'digest': source_digest(source), 'parameters': counts[source]})}"
        for source in sorted(counts)
    )  # one line per source file, for readable diffs
    TABLE.write_text(f'{{"timm": {json.dumps(version("timm"))}, "sources": {{\n{rows}\n}}}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
