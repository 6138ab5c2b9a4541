"""The first `ftkit.yaml` of a project: settings chosen for its data, each with the reason as a comment."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
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


RECIPE = """\
# Unless one of these three or the probe is set, `ftkit train` compares four recipes, and trains the best one.
# {augment}
# strategy: gradual       # the layers that train in each epoch; `ftkit strategies show NAME` shows the schedule
# optimizer: {{name: adamw, lr: 0.003}}  # the head's learning rate; the strategy scales it for other layers"""
EXAMPLE_RECIPE = """\
augment: light            # crops of 80 % or more; standard also flips images, none uses no augmentation
# The layers that train in each epoch. `ftkit strategies show NAME` shows the options and the schedule.
strategy:
  # The example in {module}.py.
  name: {package}/top-down
optimizer:
  name: adamw             # a class of torch.optim; add its options as keys
  # The head's learning rate; the strategy scales it for other layers, lr_curve over the run.
  lr: 0.01"""
EARLIER_RECIPE = """\
# {augment_why}
augment: {augment}
# The layers that train in each epoch. `ftkit strategies show NAME` shows the options and the schedule.
strategy:
  # {strategy_why}
  name: {strategy}
optimizer:
  name: adamw             # a class of torch.optim; add its options as keys
  # {lr_why}
  lr: {lr}"""
"""With the values of a project whose template had one for each."""
VALIDATION = "validation: auto          # or holdout, kfold; auto: kfold (cross-fitting) where images are few"
EARLIER_VALIDATION = "val_fraction: 0.2         # part of the training images for validation, if there is no val split"
OWN_SIZE = Setting("null", "Side of the network's square input, in pixels; null takes the backbone's default.")
LENET_WEIGHTS = Setting("default", "Trained on hand-written digits, included in ftkit; none starts from scratch.")


def template_values(
    package: str, module: str, stats: DatasetStats | None, target: Path, version: str
) -> dict[str, str]:
    """The values of the project template's placeholders.

    Args:
        stats: Statistics of the user's data; None for the example dataset of the project's plugin.
        target: Absolute path of the project's folder.
        version: The running version of ftkit; empty in a checkout that isn't installed.
    """
    chosen = _example() if stats is None else _suited(stats)
    recipe = EXAMPLE_RECIPE.format(package=package, module=module) if stats is None else _recipe(stats)
    settings = {f.name: getattr(chosen, f.name) for f in fields(chosen)}
    return {
        "project": package,
        "module": module,
        "requires_ftkit": f"ftkit>={version}" if version else "ftkit",
        "dataset": f"dataset: {package}/shapes" if stats is None else _dataset(stats, target),
        "recipe": recipe,
        "validation": VALIDATION,
        "batch_size": "32",
        "epochs": "15" if stats is None else "10",
        "predict_path": "samples" if stats is None else _shell_quoted(_relative_to(target, stats.example)),
        **{key: setting.value for key, setting in settings.items()},
        **{f"{key}_why": setting.why for key, setting in settings.items()},
    }


def earlier_values(values: Mapping[str, str]) -> dict[str, str]:
    """The values that a project's earlier template had under other names, so that an update keeps its training."""
    if "recipe" in values or "strategy" not in values:
        return {}
    return {"recipe": EARLIER_RECIPE.format(**values), "validation": EARLIER_VALIDATION}


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


def _example() -> InitialSettings:
    return InitialSettings(
        backbone=Setting("lenet", "The smallest network; `ftkit backbones list` lists the others."),
        weights=LENET_WEIGHTS,
        image_size=OWN_SIZE,
    )


def _suited(stats: DatasetStats) -> InitialSettings:
    drawn = stats.backbone.name == SMALL
    return InitialSettings(
        backbone=Setting(stats.backbone.name, "What auto chooses for these images on this machine; auto chooses anew."),
        weights=LENET_WEIGHTS if drawn else Setting("default", "ImageNet weights; or none, or the path of a file."),
        image_size=_image_size(stats.backbone),
    )


def _image_size(choice: BackboneChoice) -> Setting:
    if choice.size is None:
        return OWN_SIZE
    return Setting(str(choice.size), "For images of this size; null takes the backbone's default, which is slower.")


def _recipe(stats: DatasetStats) -> str:
    drawn = "augment: light          # crops, but no flips, which would change letters and digits"
    photographs = "augment: light          # or standard, with horizontal flips, where left and right don't matter"
    return RECIPE.format(augment=drawn if stats.backbone.name == SMALL else photographs)


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
