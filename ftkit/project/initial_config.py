"""The first `ftkit.yaml` of a project: settings chosen for its data, each with the reason as a comment."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from ftkit.errors import one_line, plural
from ftkit.planning.backbone_choice import SMALL, BackboneChoice
from ftkit.project.dataset_stats import DatasetStats

CLASSES_SHOWN = 20
"""Most classes that the comment on the dataset lists."""


@dataclass(frozen=True)
class Setting:
    """A YAML value, and the comment that explains it."""

    value: str
    why: str


@dataclass(frozen=True)
class InitialSettings:
    """The settings that depend on the data."""

    backbone: Setting
    weights: Setting
    image_size: Setting
    augment: Setting
    strategy: Setting
    epochs: Setting
    batch_size: Setting
    lr: Setting


OWN_SIZE = Setting("null", "Side of the network's square input, in pixels; null takes the backbone's default.")
LENET_WEIGHTS = Setting("default", "Trained on hand-written digits, included in ftkit; none starts from scratch.")
RATES = "The head's learning rate; the strategy scales it for other layers, lr_curve over the run."


def template_values(
    package: str, module: str, stats: DatasetStats | None, target: Path, version: str
) -> dict[str, str]:
    """The values of the project template's placeholders.

    Args:
        stats: Statistics of the user's data; None for the example dataset of the project's plugin.
        target: Absolute path of the project's folder.
        version: The running version of ftkit; empty in a checkout that isn't installed.
    """
    chosen = _example(package, module) if stats is None else _suited(stats)
    settings = {f.name: getattr(chosen, f.name) for f in fields(chosen)}
    return {
        "project": package,
        "module": module,
        "requires_ftkit": f"ftkit>={version}" if version else "ftkit",
        "dataset": f"dataset: {package}/shapes" if stats is None else _dataset(stats, target),
        "predict_path": "samples" if stats is None else _shell_quoted(_relative_to(target, stats.example)),
        **{key: setting.value for key, setting in settings.items()},
        **{f"{key}_why": setting.why for key, setting in settings.items()},
    }


def plugin_values(plugin: str, kind: str) -> dict[str, str]:
    """The values of the plugin template's placeholders, for a plugin with a part of that kind."""
    part, edit, trial = {
        "strategy": ("top-down", "lr_scales", f"--strategy {plugin}/top-down"),
        "dataset": ("by-name", "load", f"--dataset {plugin}/by-name --set dataset.root=FOLDER"),
        "backbone": ("tiny", "build` and `TINY", f"--backbone {plugin}/tiny --weights none"),
    }[kind]
    return {
        "kind": kind,
        "part": part,
        "edit": edit,
        "try_it": f"ftkit train {trial}",
        "summary": f"A {kind} for ftkit.",
    }


def _example(package: str, module: str) -> InitialSettings:
    return InitialSettings(
        backbone=Setting("lenet", "The smallest network; `ftkit backbones list` lists the others."),
        weights=LENET_WEIGHTS,
        image_size=OWN_SIZE,
        augment=Setting("light", "Crops of 80 % or more; standard also flips images, none uses no augmentation."),
        strategy=Setting(f"{package}/top-down", f"The example in {module}.py."),
        epochs=Setting("15", "Enough for the three example classes."),
        batch_size=Setting("32", "Images per batch."),
        lr=Setting("0.01", f"{RATES} Small networks train well at a high one."),
    )


def _suited(stats: DatasetStats) -> InitialSettings:
    drawn = stats.backbone.name == SMALL
    return InitialSettings(
        backbone=Setting(stats.backbone.name, "What auto chooses for these images on this machine; auto chooses anew."),
        weights=LENET_WEIGHTS if drawn else Setting("default", "ImageNet weights; or none, or the path of a file."),
        image_size=_image_size(stats.backbone),
        augment=_augment(drawn),
        strategy=Setting(
            "gradual", "Unfreezes the network from the head down; `ftkit strategies list` lists the others."
        ),
        epochs=_epochs(stats.images),
        batch_size=_batch_size(stats.images),
        lr=Setting("0.001", RATES),
    )


def _image_size(choice: BackboneChoice) -> Setting:
    if choice.size is None:
        return OWN_SIZE
    return Setting(str(choice.size), "For images of this size; null takes the backbone's default, which is slower.")


def _augment(drawn: bool) -> Setting:
    if drawn:
        return Setting("light", "Crops, but no flips, which would change letters and digits.")
    return Setting("standard", "Crops and horizontal flips; choose light where left and right matter.")


def _epochs(images: int) -> Setting:
    # With few images an epoch has few steps, so more epochs are needed.
    epochs = 15 if images < 2_000 else 10 if images < 50_000 else 5
    return Setting(str(epochs), f"For {images} training images; with more images, fewer epochs are enough.")


def _batch_size(images: int) -> Setting:
    if images < 500:
        return Setting("16", "Images per batch; small, so that an epoch has enough steps.")
    if images < 20_000:
        return Setting("32", "Images per batch.")
    return Setting("64", "Images per batch; lower it if memory runs out.")


def _dataset(stats: DatasetStats, target: Path) -> str:
    lines = ["dataset:", f"  name: {stats.dataset}"]
    lines += [f"  {option}: {_yaml_value(_portable(value, target))}" for option, value in stats.options.items()]
    lines += [f"  # {split}: {plural(count, 'image')}" for split, count in stats.sizes.items()]
    lines += [f"  #   {one_line(name)}: {count}" for name, count in list(stats.counts.items())[:CLASSES_SHOWN]]
    if len(stats.counts) > CLASSES_SHOWN:
        lines.append(f"  #   and {plural(len(stats.counts) - CLASSES_SHOWN, 'class')} more")
    return "\n".join(lines)


def _shell_quoted(path: str) -> str:
    """Quoted for a shell; bytes that aren't UTF-8 are written as bash escapes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        escaped = (chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in os.fsencode(path))
        return f"$'{''.join(escaped)}'"
    return shlex.quote(path)


def _relative_to(target: Path, path: Path) -> str:
    """Relative where the data is inside the project, so that the project can be moved; otherwise absolute."""
    inside = path.resolve()
    return str(inside.relative_to(target.resolve()) if inside.is_relative_to(target.resolve()) else path)


def _portable(value: object, target: Path) -> object:
    """A value of an option, with a path inside the project as a relative one."""
    is_path = isinstance(value, str) and "://" not in value and Path(value).is_absolute()
    return _relative_to(target, Path(str(value))) if is_path else value


def _yaml_value(value: object) -> str:
    """A YAML value on one line, with quotes around text."""
    text = yaml.safe_dump(
        value, default_style='"' if isinstance(value, str) else None, default_flow_style=True, allow_unicode=True,
        width=float("inf"),
    )  # fmt: skip
    return text.removesuffix("...\n").rstrip("\n")
