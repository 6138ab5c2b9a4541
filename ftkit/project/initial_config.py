"""The first `ftkit.yaml` of a project: settings that suit its data, each with the reason beside it."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from ftkit.errors import one_line, plural
from ftkit.project.dataset_stats import DatasetStats

CLASSES_SHOWN = 20
"""Classes that the comment on the dataset lists; more would bury the settings."""


@dataclass(frozen=True)
class Setting:
    """A YAML value, and why it is that, in a few words."""

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


SMALL = 40
"""Shorter side, in pixels, up to which a network for small images sees more than one for photographs."""

OWN_SIZE = Setting("null", "Side of the square that the network sees, in pixels; null takes the backbone's own.")
LENET_WEIGHTS = Setting("default", "Trained on hand-written digits, shipped with ftkit; none starts from scratch.")
RATES = "The head's rate; the strategy scales it for other layers, the curve over time."


def template_values(
    package: str, module: str, survey: DatasetStats | None, target: Path, version: str
) -> dict[str, str]:
    """What the project template's placeholders stand for.

    Args:
        survey: A look at the user's data; None for the example dataset of the project's plugin.
        target: The project's folder, absolute.
        version: The version of ftkit that is at work; empty in a checkout that isn't installed.
    """
    starter = _example(package, module) if survey is None else _suited(survey)
    settings = {f.name: getattr(starter, f.name) for f in fields(starter)}
    return {
        "project": package,
        "module": module,
        "requires_ftkit": f"ftkit>={version}" if version else "ftkit",
        "dataset": f"dataset: {package}/shapes" if survey is None else _dataset(survey, target),
        "predict_path": "samples" if survey is None else _for_shell(_seen_from(target, survey.example)),
        **{key: setting.value for key, setting in settings.items()},
        **{f"{key}_why": setting.why for key, setting in settings.items()},
    }


def plugin_values(plugin: str, kind: str) -> dict[str, str]:
    """What the plugin template's placeholders stand for, by the kind of thing that it brings."""
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
        backbone=Setting("lenet", "The smallest one; `ftkit backbones list` shows the others."),
        weights=LENET_WEIGHTS,
        image_size=OWN_SIZE,
        augment=Setting("light", "Crops of 80 % or more; standard mirrors as well, none leaves images as they are."),
        strategy=Setting(f"{package}/top-down", f"The example in {module}.py."),
        epochs=Setting("15", "Enough for three shapes."),
        batch_size=Setting("32", "Images in a step."),
        lr=Setting("0.01", f"{RATES} A small network takes a high one."),
    )


def _suited(survey: DatasetStats) -> InitialSettings:
    backbone, weights = _network(survey)
    pretrained = weights.value != "none"
    return InitialSettings(
        backbone=backbone,
        weights=weights,
        image_size=_image_size(survey),
        augment=_augment(survey),
        strategy=_strategy(pretrained),
        epochs=_epochs(survey.images, pretrained),
        batch_size=_batch_size(survey.images),
        lr=Setting("0.001", RATES),
    )


def _network(survey: DatasetStats) -> tuple[Setting, Setting]:
    """The backbone and its weights."""
    size = f"of about {survey.width} x {survey.height} pixels"
    if survey.side > SMALL:
        return (
            Setting("resnet18", f"For images {size}: small, well known, and pretrained on photographs."),
            Setting("default", "ImageNet's, 45 MB, downloaded once; none needs far more images, a path names a file."),
        )
    if survey.grey:
        return Setting("lenet", f"For grey images {size}: trains in seconds."), LENET_WEIGHTS
    return (
        Setting("cifar_resnet20", f"For images {size}: a network made for 32 x 32."),
        Setting("none", "There are none to download for this backbone: it starts from scratch. A path names a file."),
    )


def _strategy(pretrained: bool) -> Setting:
    if pretrained:
        return Setting("gradual", "Thaws the network from the head down; `ftkit strategies list` shows the others.")
    return Setting("scratch", "Trains every layer at the full rate, since nothing is pretrained.")


def _image_size(survey: DatasetStats) -> Setting:
    if SMALL < survey.side < 160:
        return Setting("128", "Close to the images' own; the usual 224 takes three times as long.")
    return OWN_SIZE


def _augment(survey: DatasetStats) -> Setting:
    if survey.grey and survey.side <= SMALL:
        return Setting("light", "Crops, but no mirror images, which would change letters and digits.")
    return Setting("standard", "Crops and mirror images; choose light where left and right matter.")


def _epochs(images: int, pretrained: bool) -> Setting:
    """Few images make short epochs, so it takes more of them."""
    epochs = 15 if images < 2_000 else 10 if images < 50_000 else 5
    if pretrained:
        return Setting(str(epochs), f"For {images} training images; more of them need fewer epochs.")
    return Setting(str(epochs * 3), f"For {images} training images; without pretrained weights it takes more.")


def _batch_size(images: int) -> Setting:
    if images < 500:
        return Setting("16", "Images in a step; small, so that few images still make enough steps.")
    if images < 20_000:
        return Setting("32", "Images in a step.")
    return Setting("64", "Images in a step; lower it where memory runs out.")


def _dataset(survey: DatasetStats, target: Path) -> str:
    path = _quoted(survey.path if "://" in survey.path else _seen_from(target, Path(survey.path)))
    lines = ["dataset:", f"  name: {survey.dataset}", f"  {survey.option}: {path}"]
    lines += [f"  # {split}: {plural(count, 'image')}" for split, count in survey.sizes.items()]
    lines += [f"  #   {one_line(name)}: {count}" for name, count in list(survey.counts.items())[:CLASSES_SHOWN]]
    if len(survey.counts) > CLASSES_SHOWN:
        lines.append(f"  #   and {plural(len(survey.counts) - CLASSES_SHOWN, 'class')} more")
    return "\n".join(lines)


def _for_shell(path: str) -> str:
    """Quoted for a shell, in text that UTF-8 can hold: bytes that are no text are written as bash's escapes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        escaped = (chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in os.fsencode(path))
        return f"$'{''.join(escaped)}'"
    return shlex.quote(path)


def _seen_from(target: Path, path: Path) -> str:
    """Relative where the project holds the data, so that it can be moved; else absolute."""
    inside = path.resolve()
    return str(inside.relative_to(target.resolve()) if inside.is_relative_to(target.resolve()) else path)


def _quoted(text: str) -> str:
    """A YAML string on one line, whatever is in it."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf")).rstrip("\n")
