"""`ftkit hf push` and `ftkit hf pull`: upload a model with a model card to the hub, and download one."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from ftkit.api import RequestError
from ftkit_hf.hub import MODEL, fetch, hub_errors


def push(
    model: Annotated[Path, typer.Argument(help="A run folder, or the folder of a model.")],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Created if it doesn't exist.")],
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
) -> None:
    """Upload a model to the hub, with a model card."""
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = _model_in(model)
    card = model_card(repository, json.loads((folder / MODEL[1]).read_text(encoding="utf-8")))
    api = HfApi()
    with hub_errors(f"{repository} can't be pushed", "log in with `hf auth login`, or set HF_TOKEN"):
        api.create_repo(repository, private=private, exist_ok=True)
        # In one commit, so that weights and card always belong together.
        files = {**{name: folder / name for name in MODEL}, "README.md": card.encode()}
        parts = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repository, parts, commit_message="Upload a model of ftkit")
    typer.echo(f"pushed {folder} to {repository}")


def pull(
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME")],
    folder: Annotated[Path | None, typer.Argument(help="By default the repository's name.", show_default=False)] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit.")] = None,
) -> None:
    """Download a model from the hub into a folder."""
    import ftkit

    target = folder or Path(repository.rpartition("/")[2])
    if target.exists():
        raise RequestError(f"{target} exists", "give another folder")
    got = fetch(repository, revision)
    target.mkdir(parents=True)
    for name in MODEL:
        shutil.copyfile(got / name, target / name)
    ftkit.load(target)
    typer.echo(f"pulled {repository} to {target}; ftkit predict IMAGES --model {shlex.quote(str(target))}")


def model_card(repository: str, facts: dict[str, Any]) -> str:
    """The README of a repository: the model's classes, metrics and usage."""
    metrics = {key: value for key, value in facts["metrics"].items() if isinstance(value, float)}
    rows = "\n".join(f"| {key.replace('_', ' ')} | {value:.4f} |" for key, value in sorted(metrics.items()))
    size, strategy = facts["preprocessing"]["size"], facts["strategy"].get("name", "-")
    average = facts.get("average") or {}
    which = (
        f"mean of epochs {average['epochs'][0]} to {average['epochs'][-1]}" if average else f"epoch {facts['epoch']}"
    )
    if average.get("share") is not None:
        which = f"{average['share']} of the way from epoch {average['epochs'][0]} to epoch {average['epochs'][-1]}"
    classes = ", ".join(str(name) for name in facts["classes"][:50])
    return f"""---
library_name: ftkit
pipeline_tag: image-classification
tags: [image-classification, ftkit]
---

# {repository.rpartition("/")[2]}

{facts["backbone"]["name"]}, fine-tuned by ftkit {facts["ftkit"]} with the strategy {strategy},
for {len(facts["classes"])} classes: {classes}.

Input: images of {size} x {size} pixels. On its validation images, {which}:

| | |
| --- | --- |
{rows}

    pip install ftkit ftkit-hf
    ftkit predict IMAGES --model hf/{repository}
"""


def _model_in(path: Path) -> Path:
    for folder in (path, path / "model"):
        if (folder / MODEL[1]).is_file():
            return folder
    raise RequestError(f"{path} has no model", "give a run folder, or a folder with a model.json")
