"""`ftkit webdataset write`: the images of any dataset as tar shards."""

from __future__ import annotations

import io
import random
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from ftkit.api import ImageFiles, RequestError, Split
from ftkit_webdataset.dataset import CLASSES
from ftkit_webdataset.index import index_of
from ftkit_webdataset.places import stamp


def write(
    output: Annotated[Path, typer.Argument(help="A new folder for the shards.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="A folder of images, with one folder for each class.")
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="A dataset by its name.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of it: --set root=photos.")
    ] = None,
    size: Annotated[int, typer.Option("--shard-mb", min=1, help="Size of a shard in megabytes.")] = 256,
    seed: Annotated[int, typer.Option("--seed", help="Random seed of the order and of the validation split.")] = 0,
) -> None:
    """Write a dataset as tar shards, shuffled, with its classes; image files are copied unchanged."""
    from webdataset import ShardWriter

    import ftkit

    if output.exists():
        raise RequestError(f"{output} exists", "give a new folder")
    if (data is None) == (dataset is None):
        raise RequestError("give --data FOLDER or --dataset NAME", "give one of them")
    options = dict(_pair(text) for text in sets or [])
    named = {"name": "folder", "root": str(data)} if data is not None else {"name": dataset, **options}
    splits = ftkit.plan(dataset=named, backbone="lenet", weights="none", seed=seed).splits
    output.mkdir(parents=True)
    for name, split in splits.present():
        order = list(range(len(split)))
        random.Random(f"{seed}/{name}").shuffle(order)
        with ShardWriter(str(output / f"{name}-%06d.tar"), maxsize=size * 1e6, maxcount=10**9, verbose=0) as writer:
            for number, index in enumerate(order):
                writer.write({"__key__": f"{number:09d}", **_sample(split, index)})
        made = sorted(output.glob(f"{name}-*.tar"))
        count = sum(len(index_of(str(shard), stamp(str(shard))).keys) for shard in made)
        last = made[-1].stem.rpartition("-")[2]
        typer.echo(f"{name}: {count:,} images in {output}/{name}-{{000000..{last}}}.tar")
    (output / CLASSES).write_text("".join(f"{name}\n" for name in splits.classes), encoding="utf-8")
    place = shlex.quote(f"dataset.train={output}/train-{{000000..N}}.tar")
    typer.echo(f"ftkit train --dataset webdataset/shards --set {place} ...")


def _sample(split: Split, index: int) -> dict[str, Any]:
    """An image's bytes and its class: the content of its file if it has one, else lossless PNG."""
    opens, position = split.source(index)
    label = str(split.labels[index])
    file = opens.file(position) if isinstance(opens, ImageFiles) else None
    if file is not None:
        return {file.suffix.removeprefix(".").lower(): file.read_bytes(), "cls": label}
    buffer = io.BytesIO()
    split.open(index).save(buffer, "PNG")
    return {"png": buffer.getvalue(), "cls": label}


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise RequestError(f"--set {text}: not KEY=VALUE", "give it as in --set root=photos")
    return key.removeprefix("dataset."), value
