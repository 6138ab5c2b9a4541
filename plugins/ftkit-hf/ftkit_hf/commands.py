"""`ftkit hf push` and `ftkit hf pull`: models to the hub, with a card that says what they are, and back."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from ftkit.api import RequestError
from ftkit_hf.hub import MODEL, fetch, told


def push(
    model: Annotated[Path, typer.Argument(help="A run's folder, or a model's.")],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Made if it isn't there.")],
    private: Annotated[bool, typer.Option("--private", help="Make it a private one.")] = False,
) -> None:
    """Send a model to the hub, with a model card."""
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = _model_in(model)
    card = model_card(repository, json.loads((folder / MODEL[1]).read_text(encoding="utf-8")))
    api = HfApi()
    with told(f"{repository} can't be pushed", "log in with `hf auth login`, or set HF_TOKEN"):
        api.create_repo(repository, private=private, exist_ok=True)
        # One commit, so that nobody pulls the weights of one model with the card of another.
        files = {**{name: folder / name for name in MODEL}, "README.md": card.encode()}
        parts = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repository, parts, commit_message="A model by ftkit")
    typer.echo(f"pushed {folder} to {repository}")


def pull(
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME")],
    folder: Annotated[Path | None, typer.Argument(help="By default the repository's name.", show_default=False)] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit.")] = None,
) -> None:
    """Get a model from the hub into a folder."""
    import ftkit

    target = folder or Path(repository.rpartition("/")[2])
    if target.exists():
        raise RequestError(f"{target} is there already", "name another folder")
    got = fetch(repository, revision)
    target.mkdir(parents=True)
    for name in MODEL:
        shutil.copyfile(got / name, target / name)
    ftkit.load(target)
    typer.echo(f"pulled {repository} to {target}; ftkit predict IMAGES --model {shlex.quote(str(target))}")


def model_card(repository: str, facts: dict[str, Any]) -> str:
    """The README of a repository: what the model knows, how well, and how to use it."""
    metrics = {key: value for key, value in facts["metrics"].items() if isinstance(value, float)}
    rows = "\n".join(f"| {key.replace('_', ' ')} | {value:.4f} |" for key, value in sorted(metrics.items()))
    size, strategy = facts["preprocessing"]["size"], facts["strategy"].get("name", "-")
    classes = ", ".join(str(name) for name in facts["classes"][:50])
    return f"""---
library_name: ftkit
pipeline_tag: image-classification
tags: [image-classification, ftkit]
---

# {repository.rpartition("/")[2]}

{facts["backbone"]["name"]}, fine-tuned by ftkit {facts["ftkit"]} with the strategy {strategy},
for {len(facts["classes"])} classes: {classes}.

It sees images of {size} x {size} pixels. On its validation images, epoch {facts["epoch"]}:

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
    raise RequestError(f"{path} holds no model", "name a run's folder, or the folder of a model.json")
