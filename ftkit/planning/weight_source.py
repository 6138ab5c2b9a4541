"""The initial weights of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ftkit.config.load import Resolved, is_path
from ftkit.errors import RequestError, unknown
from ftkit.models.weights.head_classes import head_class_order
from ftkit.parts.backbone import Backbone, Head, Pretrained
from ftkit.parts.strategy import Strategy
from ftkit.plugin_errors import plugin_boundary
from ftkit.runs.model_card import CARD, MEMBERS, WEIGHTS, read_card_and_digest
from ftkit.runs.run_lookup import find_model, refuse_run_part
from ftkit.transforms.preprocessing import Preprocessing


@dataclass(frozen=True)
class WeightSource:
    """The source of a run's initial weights.

    Attributes:
        kind: Random initialization, pretrained weights of the backbone, or a file.
        name: The value in the config: `none`, `IMAGENET1K_V1`, a path.
        preprocessing: The preprocessing that the weights were trained with, if known.
        head: The structure of their head, if known.
        classes: The classes of their head in output order, if known.
        sha256: The expected checksum of the file, if known.
        backbone: Name of the backbone that they are of, for the model of a run.
    """

    kind: Literal["none", "pretrained", "file"]
    name: str
    preprocessing: Preprocessing | None = None
    pretrained: Pretrained | None = field(default=None, repr=False)
    path: Path | None = None
    head: Head | None = None
    classes: tuple[str, ...] | None = None
    sha256: str | None = None
    backbone: str | None = None

    def describe(self) -> str:
        """One line of text."""
        if self.kind == "none":
            return "none: drawn at random"
        if self.pretrained is None:
            return f"file {self.path}"
        size = f", {self.pretrained.size_mb:.0f} MB" if self.pretrained.size_mb >= 1 else ""
        note = f": {self.pretrained.note}" if self.pretrained.note else ""
        return f"{self.name} ({self.pretrained.file or 'pretrained'}{size}){note}"


def _choose_weights(resolved: Resolved, backbone: Backbone, strategy: Strategy) -> WeightSource:
    """The weights of the config, or otherwise the strategy's default.

    Raises:
        RequestError: They are missing, or are only a part of a network.
    """
    found = _chosen(resolved, backbone, strategy)
    if found.kind != "file" and resolved.config.weights_key is not None:
        raise RequestError(f"weights_key is set, but weights are {found.name}, not a file", "drop it")
    if found.kind == "none" and resolved.config.allow_partial:
        raise RequestError("allow_partial is set, but weights are none", "drop --allow-partial")
    return found


def _chosen(resolved: Resolved, backbone: Backbone, strategy: Strategy) -> WeightSource:
    wanted = resolved.config.weights or strategy.default_weights
    named = {w.name: w for w in backbone.weights}
    if wanted == "none":
        return WeightSource("none", "none")
    if wanted == "default" and not named:
        raise RequestError(
            f"backbone {backbone.name!r} has no pretrained weights of its own",
            "give a file with --weights FILE, or train from scratch with --weights none",
        )
    if wanted == "default" or wanted in named:
        pretrained = named.get(wanted, backbone.weights[0])
        return WeightSource("pretrained", pretrained.name, pretrained.preprocessing, pretrained, head=Head())
    if not Path(wanted).exists():
        where = resolved.where("weights")
        if is_path(wanted):
            raise RequestError(f"{where}: no file {wanted}", "give default, none, or a file that is there")
        run = Path(resolved.config.output) / wanted
        if run.is_dir():
            raise RequestError(f"{where}: {wanted} names no weights of {backbone.name}", f"a run is given as {run}")
        raise unknown(f"weights of {backbone.name}", wanted, ["default", "none", *named], where)
    return _weights_file(Path(wanted), Path(resolved.config.output))


def backbone_of_weights(resolved: Resolved) -> str | None:
    """The backbone of the config's weights, for weights that belong to one: the model of a run names it.

    Returns:
        None for `default`, `none`, and where the strategy chooses.

    Raises:
        RequestError: The weights don't say which backbone they are of.
    """
    wanted, where = resolved.config.weights, resolved.where("weights")
    if wanted in (None, "default", "none"):
        return None
    if not is_path(wanted) and not Path(wanted).exists():
        raise RequestError(
            f"{where}: weights {wanted!r} are those of one network, and backbone is auto",
            "name the network too: --backbone NAME; or give --weights default or none",
        )
    if not Path(wanted).exists():
        raise RequestError(f"{where}: no file {wanted}", "give default, none, or a file that is there")
    found = _weights_file(Path(wanted), Path(resolved.config.output)).backbone
    if found is None:
        raise RequestError(
            f"{where}: {wanted} doesn't say which network its weights are of, and backbone is auto",
            "name the network too: --backbone NAME; ftkit backbones list shows the names",
        )
    return found


def fetch_weights(weights: WeightSource, tell: Callable[[str], None] | None = None) -> None:
    """Get pretrained weights that aren't on this machine, so that a failure comes before the images are read.

    Args:
        tell: Called with a line before a download.

    Raises:
        FtkitError: They can't be downloaded; says where to put the file.
    """
    pretrained = weights.pretrained
    if pretrained is None or pretrained.stored is None or pretrained.stored() is not None:
        return
    if tell is not None:
        tell(f"getting the weights {pretrained.file}, {pretrained.size_mb:.0f} MB")
    with plugin_boundary(f"load of weights {pretrained.name!r}", pretrained.load):
        pretrained.load()


def weights_for(resolved: Resolved, backbone: Backbone, strategy: Strategy, run: Path | None = None) -> WeightSource:
    """The initial weights of a run.

    Args:
        run: Folder of a run that is resumed. The file of its weights may be missing if there is a checkpoint, which has
            all weights of the network; preprocessing and head are then read from the run's plan.

    Raises:
        RequestError: They are missing, or are only a part of a network.
    """
    try:
        return _choose_weights(resolved, backbone, strategy)
    except RequestError as error:
        wanted = resolved.config.weights
        if run is None or not wanted or not is_path(wanted):
            raise
        if not any((run / "checkpoints").glob("e*")):
            raise RequestError(
                f"{error.message}, which the run starts from: it has no checkpoint yet",
                "put it back, or start a new run",
            ) from None
        return _as_planned(Path(wanted), run / "plan.json")


def _as_planned(path: Path, plan: Path) -> WeightSource:
    try:
        known = json.loads(plan.read_text(encoding="utf-8"))
        preprocessing: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in known["preprocessing"].items()
        }
        return WeightSource("file", str(path), Preprocessing(**preprocessing), path=path, head=Head(**known["head"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"no file {path}, and {plan} doesn't say what it was: {error}", "put one of them back"
        ) from None


def require_head(weights: WeightSource, head: Head, classes: Sequence[str]) -> tuple[str, ...]:
    """Refuse `keep_head` for weights without a head, with a head of another structure, or for other classes.

    Returns:
        A note for the plan if the classes of the head are unknown.
    """
    if weights.kind == "none":
        raise RequestError("keep_head is set, but weights are none", "there is no head to keep: drop --keep-head")
    there = weights.head
    if there is not None and there.hidden != head.hidden:
        has = f"a hidden layer of {there.hidden}" if there.hidden else "no hidden layer"
        fix = f"give --head-hidden {there.hidden}" if there.hidden else "drop --head-hidden"
        raise RequestError(
            f"keep_head is set, but the head of {weights.name} has {has}, and head.hidden is {head.hidden or 'unset'}",
            f"{fix}, or drop --keep-head",
        )
    if weights.classes is None:
        return (
            f"{weights.name} doesn't tell the classes of its head: they are taken to be those of the data in the "
            f"data's order: {', '.join(classes[:6])}{', ...' if len(classes) > 6 else ''}",
        )
    head_class_order(weights, classes)
    return ()


def _weights_file(path: Path, runs: Path) -> WeightSource:
    """A weights file, or the model of a run, whose card has the preprocessing and the classes."""
    _refuse_parts(path)
    in_bundle = path.name in (WEIGHTS, CARD) and (path.parent / CARD).is_file()
    if path.is_file() and not in_bundle:
        return WeightSource("file", str(path), path=path)
    bundle = find_model(str(path), runs)
    if not (bundle / CARD).is_file():
        raise RequestError(
            f"{bundle} has no {CARD}, so it isn't a model of ftkit's", f"name the weights file: {bundle / WEIGHTS}"
        )
    card, sha256 = read_card_and_digest(bundle)
    if card.members:
        raise RequestError(f"weights {path} are an ensemble, not one network", f"give one of {bundle / MEMBERS}")
    return WeightSource(
        "file",
        str(path),
        card.preprocessing,
        path=bundle / WEIGHTS,
        head=card.head,
        classes=card.classes,
        sha256=sha256,
        backbone=card.backbone.name,
    )


def _refuse_parts(path: Path) -> None:
    """Refuse files that hold only a part of a network.

    Raises:
        RequestError: It is part of a run folder, adapter weights, or a shard; names what to give instead.
    """
    refuse_run_part(path)
    folder = path if path.is_dir() else path.parent
    if (folder / "adapter_config.json").is_file() and (path.is_dir() or path.name.startswith("adapter_model")):
        merged = (folder.parent / CARD).is_file()
        raise RequestError(
            f"weights {path} are adapters alone, without the network that they adapt",
            f"give {folder.parent}, which has them merged in"
            if merged
            else "merge them into their network (PEFT: merge_and_unload) and give that",
        )
    if path.is_dir():
        _refuse_shards(path)


def _refuse_shards(folder: Path) -> None:
    index = next(iter(sorted(folder.glob("*.index.json"))), None)
    if index is not None:
        raise RequestError(f"weights {folder} is a folder of several weights files", f"name their index: {index}")
    if any(folder.glob("*.distcp")):
        raise RequestError(
            f"weights {folder} is a sharded checkpoint of torch's",
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} FILE.pt, and give that",
        )
