"""Where a run's first weights come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ftkit.config.load import Resolved, is_path
from ftkit.errors import RequestError, unknown
from ftkit.runs import WEIGHTS, find_model, read_card
from ftkit.spec.backbone import Backbone, Head, Pretrained
from ftkit.spec.preprocessing import Preprocessing
from ftkit.spec.strategy import Strategy


@dataclass(frozen=True)
class WeightSource:
    """Where a run's first weights come from.

    Attributes:
        kind: Drawn at random, one of the backbone's pretrained sets, or a file.
        name: As the user may write it: `none`, `IMAGENET1K_V1`, the path.
        preprocessing: What the weights were trained with, where that is known.
        head: What their head is made of, where that is known.
    """

    kind: Literal["none", "pretrained", "file"]
    name: str
    preprocessing: Preprocessing | None = None
    pretrained: Pretrained | None = field(default=None, repr=False)
    path: Path | None = None
    head: Head | None = None

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
    """Where the weights come from: what the config says, or else what suits the strategy."""
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
        raise unknown(f"weights of {backbone.name}", wanted, ["default", "none", *named], where)
    return _weights_file(Path(wanted), Path(resolved.config.output))


def require_head(weights: WeightSource, head: Head) -> None:
    """Refuse to keep a head that isn't there, or isn't made as the new one is."""
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


def _weights_file(path: Path, runs: Path) -> WeightSource:
    """A file of weights, or the model of a run, whose card tells the preprocessing too."""
    if path.is_file():
        return WeightSource("file", str(path), path=path)
    bundle = find_model(str(path), runs)
    card = read_card(bundle)
    return WeightSource("file", str(path), card.preprocessing, path=bundle / WEIGHTS, head=card.head)
