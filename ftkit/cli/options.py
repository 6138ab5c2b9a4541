"""The flags that set config keys, once for every command that takes them."""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftkit.cli.output import console
from ftkit.config.choices import BAD_IMAGE_WAYS, BALANCES, DECODED, DEVICES, ON_NAN, PRECISIONS, TRACKERS
from ftkit.errors import RequestError
from ftkit.files.file_kinds import kind_of_file
from ftkit.optim.optimizer_names import OPTIMIZERS
from ftkit.transforms.augmentation import LEVELS

if TYPE_CHECKING:
    from ftkit.config.load import Resolved
    from ftkit.plugins import Registry

DATA, MODEL, TRAINING, MACHINE, RUN = "Data", "Model", "Training", "Machine", "Run"

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
"""Endings of files that are unpacked."""


@dataclass(frozen=True)
class Flag:
    """A flag that sets one key of the config.

    Attributes:
        names: Spellings, the full one first.
        key: Dotted config key.
        metavar: What stands for the value in the help; None for a switch.
        help: One line.
        panel: Heading in the help.
        values: Values to complete, or the kind of names to look up: `backbones`, `datasets`, `strategies`.
        parse: From the flag's text to the key's value.
        repeats: Whether the flag may be given several times, for a key that takes a list.
    """

    names: tuple[str, ...]
    key: str
    metavar: str | None
    help: str
    panel: str
    values: tuple[str, ...] | str = ()
    parse: Callable[[str], Any] = str
    repeats: bool = False

    @property
    def parameter(self) -> str:
        """Name of the argument that it becomes."""
        return "config_" + self.names[0].strip("-").replace("-", "_")


def dataset_at(path: str) -> dict[str, str]:
    """The dataset that a path means: a folder of images, a CSV file, or an archive, which may be at an address.

    Raises:
        RequestError: Nothing is there, or it is none of these.
    """
    place = Path(path).expanduser()
    if "://" in path:
        return {"name": "archive", "source": path}
    if place.is_dir():
        return {"name": "folder", "root": path}
    if place.suffix.lower() in (".csv", ".tsv") and place.is_file():
        return {"name": "csv", "path": path}
    if place.name.lower().endswith(ARCHIVES) and place.is_file():
        return {"name": "archive", "source": path}
    if place.exists():
        kind = kind_of_file(place)
        it_is = f"it is {kind}, " if kind else ""
        found = f"--data {path}: {it_is}neither a folder, nor a .csv file, nor a zip or tar archive"
        archive = kind is not None and kind.endswith((" archive", "gzip file"))
        raise RequestError(found, f"--dataset archive --set dataset.source={path} reads it" if archive else None)
    raise RequestError(
        f"--data {path}: nothing is there",
        "give a folder of images, a .csv file of paths and labels, or an archive or its https address",
    )


def _listed(text: str) -> list[str]:
    return text.split(",")


FLAGS: tuple[Flag, ...] = (
    Flag(
        ("--data",),
        "dataset",
        "PATH|URL",
        "A folder of images, a CSV file of paths and labels, or a zip or tar archive.",
        DATA,
        parse=dataset_at,
    ),
    Flag(("--dataset",), "dataset.name", "NAME", "A dataset by name; see `ftkit datasets list`.", DATA, "datasets"),
    Flag(("--train-samples",), "train_samples", "N", "Train on only so many images.", DATA),
    Flag(
        ("--on-bad-image",),
        "on_bad_image",
        "|".join(BAD_IMAGE_WAYS),
        "Stop at image files that can't be read, or leave them out.",
        DATA,
        BAD_IMAGE_WAYS,
    ),
    Flag(("--backbone",), "backbone", "NAME", "The network; see `ftkit backbones list`.", MODEL, "backbones"),
    Flag(("--weights",), "weights", "default|none|NAME|FILE", "Where to start from.", MODEL, ("default", "none")),
    Flag(("--allow-partial",), "allow_partial", None, "Take weights that fit in part; the rest is random.", MODEL),
    Flag(("--keep-head",), "keep_head", None, "Keep the pretrained head, for data of the same classes.", MODEL),
    Flag(("--channels",), "preprocessing.channels", "1|3", "1 trains on grey images.", MODEL, ("1", "3")),
    Flag(("--head-hidden",), "head.hidden", "N", "Width of a hidden layer in the head.", MODEL),
    Flag(("--head-dropout",), "head.dropout", "PART", "Dropout before the head's last layer.", MODEL),
    Flag(("--image-size",), "preprocessing.size", "PIXELS", "Side of the square that the network sees.", MODEL),
    Flag(
        ("--strategy",),
        "strategy.name",
        "NAME",
        "What trains when, auto to have it chosen; see `ftkit strategies list`.",
        TRAINING,
        "strategies",
    ),
    Flag(("--epochs",), "epochs", "N", "Passes over the training images.", TRAINING),
    Flag(("--lr",), "optimizer.lr", "RATE", "Base learning rate.", TRAINING),
    Flag(
        ("--optimizer",), "optimizer.name", "NAME", "A class of torch.optim in lower case.", TRAINING, tuple(OPTIMIZERS)
    ),
    Flag(("--batch-size",), "batch_size", "N", "Images a step.", TRAINING),
    Flag(("--accumulate",), "accumulate", "N", "Batches a step of the optimizer.", TRAINING),
    Flag(
        ("--augment",), "augment.name", "|".join(LEVELS), "Random changes of training images.", TRAINING, tuple(LEVELS)
    ),
    Flag(
        ("--image-transform",),
        "image_transforms",
        "NAME",
        "Random transform of training images; may be repeated.",
        TRAINING,
        "image_transforms",
        repeats=True,
    ),
    Flag(
        ("--batch-transform",),
        "batch_transforms",
        "NAME",
        "Random transform of training batches; may be repeated.",
        TRAINING,
        "batch_transforms",
        repeats=True,
    ),
    Flag(("--loss",), "loss.name", "NAME", "Training loss.", TRAINING, "losses"),
    Flag(("--label-smoothing",), "label_smoothing", "PART", "Part of each target spread over all classes.", TRAINING),
    Flag(("--clip-grad",), "clip_grad", "NORM", "Largest norm of the gradient.", TRAINING),
    Flag(("--on-nan",), "on_nan", "|".join(ON_NAN), "A step whose loss is not finite.", TRAINING, ON_NAN),
    Flag(("--balance",), "balance", "|".join(BALANCES), "Against classes of unequal size.", TRAINING, BALANCES),
    Flag(("--probe",), "probe", None, "Start from the head solved on frozen features.", TRAINING),
    Flag(("--monitor",), "monitor", "NAME", "Metric that selects the best epoch.", TRAINING, "metrics"),
    Flag(("--metric",), "metrics", "NAME", "Further metric; may be repeated.", TRAINING, "metrics", repeats=True),
    Flag(("--patience",), "patience", "N", "Stop after so many epochs of the last phase without gain.", TRAINING),
    Flag(("--seed",), "seed", "N", "Everything random follows from it.", TRAINING),
    Flag(("--precision",), "precision", "|".join(PRECISIONS), "Arithmetic of training.", MACHINE, PRECISIONS),
    Flag(("--device",), "device", "|".join(DEVICES), "Where to train.", MACHINE, DEVICES),
    Flag(("--compile",), "compile", None, "Compile what trains, which pays on GPUs.", MACHINE),
    Flag(("--fsdp",), "fsdp", None, "Share a large network out over the processes.", MACHINE),
    Flag(("--zero-stage",), "zero_stage", "0|1|2", "Share out the optimizer's state, by DeepSpeed.", MACHINE),
    Flag(("--workers",), "workers", "N|auto", "Processes that read images.", MACHINE, ("auto",)),
    Flag(("--cache",), "cache.use", None, "Compute what is frozen once, and keep it.", MACHINE),
    Flag(("--cached-augmentations",), "cache.augmentations", "K", "Cached augmentations per image.", MACHINE),
    Flag(("--decoded-cache",), "cache.decoded", "|".join(DECODED), "Where to keep images decoded.", MACHINE, DECODED),
    Flag(("--cache-dir",), "cache.dir", "FOLDER", "Where to keep it.", MACHINE),
    Flag(("--cache-limit",), "cache.limit", "SIZE", "Most to keep, such as 20GB.", MACHINE),
    Flag(("--callback",), "callbacks", "NAME", "Training callback; may be repeated.", RUN, "callbacks", repeats=True),
    Flag(("--tracker",), "tracker", "|".join(TRACKERS), "Send the records there too.", RUN, TRACKERS, _listed),
    Flag(("--output",), "output", "FOLDER", "Folder that run folders are made in.", RUN),
    Flag(("--name",), "name", "NAME", "Name of the run folder.", RUN),
)


@dataclass(frozen=True)
class Request:
    """The config's flags as they were given, for a command that decides itself what they are laid over.

    Attributes:
        file: `--config`.
        flags: By dotted config key: how the flag was spelt, and its value.
        sets: `--set`, as given.
    """

    file: Path | None
    flags: Mapping[str, tuple[str, Any]]
    sets: Sequence[str]

    def resolve(self, file: Path | None = None) -> Resolved:
        """Lay the flags and the environment over a config file, by default the one that was given."""
        from ftkit.config.load import resolve

        resolved = resolve(file or self.file, self.flags, self.sets, os.environ)
        warn_of_faults(resolved.registry)
        return resolved


def with_request(command: Callable[..., Any]) -> Callable[..., Any]:
    """As `with_config`; the command gets a `request` instead, and nothing is resolved yet."""
    return _with_flags(command, "request", _request)


def with_config(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the config's flags, `--config` and `--set`; it gets `resolved` in their place.

    The command's own parameters stay as they are. Faults of plugins are shown once, as warnings.
    """
    return _with_flags(command, "resolved", lambda arguments: _request(arguments).resolve())


def _with_flags(command: Callable[..., Any], name: str, made: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
    hints = typing.get_type_hints(command, localns={"Resolved": object, "Request": object}, include_extras=True)
    own = [p for p in inspect.signature(command).parameters.values() if p.name != name]
    keyword = inspect.Parameter.KEYWORD_ONLY
    shown = [p.replace(annotation=hints[p.name], kind=keyword) for p in own]
    signature = inspect.Signature([*shown, *_config_parameters()], return_annotation=None)

    @functools.wraps(command)
    def run(**arguments: Any) -> Any:
        kept = {p.name: arguments.pop(p.name) for p in own}
        return command(**{name: made(arguments)}, **kept)

    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return run


def project_registry(all_plugins: bool = True) -> Registry:
    """The plugins that are built in, installed, and named by `ftkit.yaml` in the working folder.

    Args:
        all_plugins: Load all of them now, for a list of what there is, and say which are broken.
    """
    from ftkit.config.load import project_plugins
    from ftkit.plugins import Registry

    registry = Registry(project_plugins())
    if all_plugins:
        registry.load_all()
        warn_of_faults(registry)
    return registry


def warn_of_faults(registry: Registry) -> None:
    """Say which plugins are left out, and why."""
    for fault in registry.new_faults():
        console.warn(str(fault))


def _request(arguments: dict[str, Any]) -> Request:
    if arguments["config_data"] is not None and arguments["config_dataset"] is not None:
        raise RequestError(
            "--data and --dataset: give one of them",
            "options of a named dataset are given like --set dataset.root=FOLDER (for csv, --set dataset.path=FILE)",
        )
    flags = {
        flag.key: (flag.names[0], flag.parse(value) if isinstance(value, str) else value)
        for flag in FLAGS
        if (value := arguments[flag.parameter]) not in (None, [])
    }
    return Request(arguments["config_file"], flags, arguments["config_sets"] or [])


def _config_parameters() -> list[inspect.Parameter]:
    file = Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="Config file; else ./ftkit.yaml, if any.", rich_help_panel=RUN
        ),
    ]
    sets = Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key: --set optimizer.lr=0.01", rich_help_panel=RUN),
    ]
    parameters = [_parameter("config_file", file), _parameter("config_sets", sets)]
    return [*(_flag_parameter(flag) for flag in FLAGS), *parameters]


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _flag_parameter(flag: Flag) -> inspect.Parameter:
    """Values stay text here; the config's own check of them has the better message."""
    if flag.metavar is None:
        off = f"--no-{flag.names[0].strip('-')}"
        switch = typer.Option(f"{flag.names[0]}/{off}", help=flag.help, rich_help_panel=flag.panel)
        return _parameter(flag.parameter, Annotated[bool | None, switch])
    option = typer.Option(
        *flag.names,
        metavar=flag.metavar,
        help=flag.help,
        rich_help_panel=flag.panel,
        autocompletion=_completer(flag.values) if flag.values else None,
    )
    return _parameter(flag.parameter, Annotated[list[str] | None if flag.repeats else str | None, option])


def _completer(values: tuple[str, ...] | str) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        if isinstance(values, tuple):
            names = list(values)
        else:
            from ftkit.plugins import Registry

            names = list(getattr(Registry(), values))
        return [name for name in names if name.startswith(incomplete)]

    return complete
