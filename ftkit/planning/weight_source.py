"""Where a run's first weights come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ftkit.config.load import Resolved, is_path
from ftkit.errors import RequestError, unknown
from ftkit.models.weights.head_classes import head_class_order
from ftkit.parts.backbone import Backbone, Head, Pretrained
from ftkit.parts.strategy import Strategy
from ftkit.runs.model_card import CARD, WEIGHTS, read_card_and_digest
from ftkit.runs.run_lookup import find_model, refuse_run_part
from ftkit.transforms.preprocessing import Preprocessing


@dataclass(frozen=True)
class WeightSource:
    """Where a run's first weights come from.

    Attributes:
        kind: Drawn at random, one of the backbone's pretrained sets, or a file.
        name: As the user may write it: `none`, `IMAGENET1K_V1`, the path.
        preprocessing: What the weights were trained with, where that is known.
        head: What their head is made of, where that is known.
        classes: What the outputs of their head stand for, in that order, where that is known.
        sha256: The sum that the file must have, where that is known.
    """

    kind: Literal["none", "pretrained", "file"]
    name: str
    preprocessing: Preprocessing | None = None
    pretrained: Pretrained | None = field(default=None, repr=False)
    path: Path | None = None
    head: Head | None = None
    classes: tuple[str, ...] | None = None
    sha256: str | None = None

    def describe(self) -> str:
        """One line for people."""
        if self.kind == "none":
            return "none: drawn at random"
        if self.pretrained is None:
            return f"file {self.path}"
        size = f", {self.pretrained.size_mb:.0f} MB" if self.pretrained.size_mb >= 1 else ""
        note = f": {self.pretrained.note}" if self.pretrained.note else ""
        return f"{self.name} ({self.pretrained.file or 'pretrained'}{size}){note}"


def choose_weights(resolved: Resolved, backbone: Backbone, strategy: Strategy) -> WeightSource:
    """Where the weights come from: what the config says, or else what suits the strategy.

    Raises:
        RequestError: They aren't there, or are a part of a network.
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


def weights_of_run(resolved: Resolved, backbone: Backbone, strategy: Strategy, run: Path) -> WeightSource:
    """Where the weights of a run that goes on came from.

    A whole checkpoint has all of the network, what is frozen too, so their file may be gone since; what else it told
    stands in the run's plan.

    Raises:
        RequestError: It is gone, and the run has no checkpoint.
    """
    try:
        return choose_weights(resolved, backbone, strategy)
    except RequestError as error:
        wanted = resolved.config.weights
        if not wanted or not is_path(wanted):
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
    """Refuse to keep a head that isn't there, isn't made as the new one is, or is for other classes.

    Returns:
        Notes for the plan: where the classes of the head aren't known, what they are taken for.
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
    """A file of weights, or the model of a run, whose card tells preprocessing and classes too."""
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
    return WeightSource(
        "file",
        str(path),
        card.preprocessing,
        path=bundle / WEIGHTS,
        head=card.head,
        classes=card.classes,
        sha256=sha256,
    )


def _refuse_parts(path: Path) -> None:
    """Refuse what holds a part of a network, with what to give in its place.

    Raises:
        RequestError: It is a checkpoint of a run, the weights that a run is measured from, adapters, or one of several
            shards.
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
