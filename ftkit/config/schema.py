"""Every key of `ftkit.yaml`, with its default and its bounds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import inf
from typing import Annotated, Any, Literal, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError, to_jsonable_python

from ftkit.config.choices import (
    AugmentOn,
    BadImage,
    Balance,
    Decoded,
    Device,
    OnNan,
    PatienceFrom,
    Precision,
    Tracker,
)
from ftkit.optim.optimizer_names import DEFAULT_DECAY, OPTIMIZERS
from ftkit.transforms.preprocessing import Fit, Interpolation

MOST_EPOCHS = 1_000_000
"""A plan has a row for each."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """`epochs: true` would otherwise count as 1."""
        wanted = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and wanted is not bool and get_origin(wanted) is not Literal:
            raise PydanticCustomError("not_a_switch", "a number or text")
        return value


class Choice(Section):
    """A plugin or a built-in by name, with its options beside the name."""

    model_config = ConfigDict(extra="allow")

    name: str

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        """Options as YAML has them, lists and text, so that a config equals itself after a round trip."""
        return to_jsonable_python(dict(value)) if isinstance(value, Mapping) else value

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _range(value: object) -> object:
    """`auto`, or two numbers."""
    if value == "auto":
        return value
    numbers = [] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)
    if len(numbers) != 2 or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise PydanticCustomError("value_range", "auto, or two numbers such as [0, 4095]")
    low, high = map(float, numbers)
    if not -inf < low < high < inf:
        raise PydanticCustomError("value_range", "two numbers, the lower one first, such as [0, 4095]")
    return low, high


class DatasetChoice(Choice):
    """A dataset by name with its options, and what holds for the images of any dataset."""

    value_range: Annotated[Literal["auto"] | tuple[float, float], BeforeValidator(_range)] = "auto"
    """For images of more than 8 bits whose files don't say which values are black and white: these two, as [0, 4095];
    auto takes 0 to 65535, or what holds the values of all images where they don't fit."""

    @property
    def given_range(self) -> tuple[float, float] | None:
        """The two values; None for auto."""
        return None if self.value_range == "auto" else self.value_range


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str | Mapping) else value


Named = Annotated[Choice, BeforeValidator(_named)]
NamedList = Annotated[tuple[Named, ...], BeforeValidator(_listed)]
NamedDataset = Annotated[DatasetChoice, BeforeValidator(_named)]


def _undotted(value: object) -> object:
    """`group_lr.features.0`, which reads as a key in a section in a section, as one name again."""
    if not isinstance(value, Mapping):
        return value
    found: dict[str, object] = {}
    for name, item in value.items():
        inner = _undotted(item)
        found |= {f"{name}.{rest}": v for rest, v in inner.items()} if isinstance(inner, Mapping) else {name: item}
    return found


def _no_switch(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_switch", "a number or text")
    return value


def _name_of_number(value: object) -> object:
    """Classes are often called 0, 1, 2, which YAML takes for numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


ClassName = Annotated[str, BeforeValidator(_name_of_number)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_no_switch)]


class Optimizer(Choice):
    """A class of torch.optim in lower case, its learning rate, and its other options beside them."""

    name: Annotated[str, BeforeValidator(lambda name: name.lower() if isinstance(name, str) else name)] = "adamw"
    lr: float = Field(default=3e-3, gt=0, allow_inf_nan=False)
    """The base learning rate; the strategy's scales and the curve multiply it."""

    @property
    def decay(self) -> Any:
        """The weight decay in effect, be it by the optimizer's own default; 0 where there is none."""
        if "weight_decay" not in OPTIMIZERS.get(self.name, ()):
            return 0.0
        return self.options.get("weight_decay", DEFAULT_DECAY.get(self.name, 0.0))


def _digit(value: object) -> object:
    """Flags and the environment give text, which a choice of numbers wouldn't take."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _bytes(value: object) -> object:
    """`20GB` as a number of bytes."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kKMGT])?i?B?", value.strip()) if isinstance(value, str) else None
    return int(float(found[1]) * 1000 ** " kMGT".index((found[2] or " ").replace("K", "k"))) if found else value


class PreprocessingOverrides(Section):
    """Each key that is set takes the place of the backbone's own."""

    size: int | None = Field(default=None, ge=1)
    """Side of the square that the network sees, in pixels."""
    crop_pct: float | None = Field(default=None, gt=0, le=1)
    """Part of the shorter side that the central crop keeps."""
    interpolation: Interpolation | None = None
    mean: tuple[float, ...] | None = None
    """Per channel, of values scaled to 0..1."""
    std: tuple[float, ...] | None = None
    channels: Annotated[Literal[1, 3] | None, BeforeValidator(_digit)] = None
    """1 for grey images: the first convolution's weights are summed over the colours."""
    fit: Fit | None = None
    """How images that are not square become so: crop, pad or stretch."""


class Head(Section):
    """The classifier on top of the backbone; by default one linear layer."""

    hidden: int | None = Field(default=None, ge=1)
    """Width of a hidden layer with ReLU before the last one; null for none."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the last layer, beside any that the backbone has itself."""


class Checkpoint(Section):
    every_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between checkpoints, beside those at the ends of epochs."""
    every_minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Minutes between checkpoints, beside those."""
    min_seconds: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """Seconds that those at the ends of epochs are apart at least, but for a phase's last; 0 for one after each."""
    keep: int = Field(default=2, ge=1)
    """How many resume checkpoints to keep."""


class Cache(Section):
    """Of the activations of frozen layers, and of decoded images."""

    use: bool = True
    """Compute frozen layers once per image and cache the result; otherwise in each epoch."""
    augmentations: int = Field(default=2, ge=1)
    """Cached augmentations per image: the first is the image without augmentation, the others are augmented."""
    decoded: Decoded = "off"
    """Where to keep images decoded from the first epoch on: ram or disk, for data that fits there."""
    limit: Annotated[int, BeforeValidator(_bytes)] = Field(default=20_000_000_000, ge=0)
    """Most that all runs together keep, in bytes or as 20GB; what was not used for longest goes first."""
    dir: str | None = None
    """Where; unset, in the folder of FTKIT_CACHE_DIR, or the user's cache folder."""


class Config(Section):
    """One run, whole. Saved with it, this starts the same run again."""

    plugins: tuple[str, ...] = ()
    """Plugin files of this project, relative to the config file."""

    dataset: NamedDataset = DatasetChoice(name="digits")
    """Where the images come from: a name, or a mapping of name and options."""
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Part of the training images to validate on, where the dataset has no validation split."""
    train_samples: int | None = Field(default=None, ge=1)
    """Train on only so many images, drawn by seed and class."""
    on_bad_image: BadImage = "error"
    """What to do about image files that can't be read: error, say which before training; skip, leave them out."""

    classes: tuple[ClassName, ...] | None = None
    """Use only images of these classes, in this order."""
    label_map: Annotated[dict[str, ClassName] | None, BeforeValidator(_undotted)] = None
    """The target for each class of the data: {0: even, 1: odd, ...}; every class that is used must be in it."""

    backbone: str = "lenet"
    """The network; `ftkit backbones list` has them all."""
    weights: str | None = None
    """default, none, the name of a set of weights, or a file; unset, the strategy chooses."""
    weights_key: str | None = None
    """Of a weights file with several state dicts, the entry to take, such as model_ema; unset, the raw weights."""
    allow_partial: bool = False
    """Start from a weights file that lacks a part of the network, or holds more than it; what it lacks is random."""
    keep_head: bool = False
    """Keep the pretrained head, whose classes must be the data's; a model's are put into the data's order by name."""
    head: Head = Head()
    """What the classifier on top is made of."""
    drop_path: float | None = Field(default=None, ge=0, lt=1)
    """Stochastic-depth rate of the backbone's last block, growing linearly from 0 over its blocks; unset, its own."""
    backbone_dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout rate of the backbone's own dropout layers; unset, their own."""
    preprocessing: PreprocessingOverrides = PreprocessingOverrides()
    """What to do otherwise than the weights were trained with."""
    augment: Named = Choice(name="light")
    """Random changes of training images, a name or a mapping of name and options: none; light, crops of 80 % or
    more; standard, crops and mirror images; strong, more besides."""
    augment_on: AugmentOn = "auto"
    """Where images are changed once they are cropped: workers, one by one, or device, in batches; auto is device with
    CUDA."""

    image_transforms: NamedList = ()
    """Further random transforms of single training images, in order: names, or mappings of name and options."""
    batch_transforms: NamedList = ()
    """Random transforms of training batches and their targets, in order: names, or mappings of name and options."""

    strategy: Named = Choice(name="gradual")
    """Which layer groups train when, and how fast: a name, or a mapping of name and options."""
    probe: bool = True
    """With pretrained weights, start from the head solved on frozen features, and never end below it."""
    group_lr: Annotated[dict[str, Rate], BeforeValidator(_undotted)] = {}
    """Learning rates by layer group, in place of the base rate times the strategy's scale."""
    train_bn: bool = False
    """Let BatchNorm statistics move in frozen groups too."""
    epochs: int = Field(default=10, ge=0, le=MOST_EPOCHS)
    """Passes over the training images; 0 makes a bundle of the weights as they are."""
    extended_from: int | None = Field(default=None, ge=1)
    """The epochs that a run had before `--extend`; in later ones what trained last goes on to train."""
    batch_size: int = Field(default=32, ge=1)
    """Images a step in each process."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are summed before the optimizer steps."""
    optimizer: Annotated[Optimizer, BeforeValidator(_named)] = Optimizer()
    """What moves the weights: a name, or a mapping of name, lr and options."""
    decay_all: bool = False
    """Let weight decay act on biases and normalisation parameters too."""
    on_nan: OnNan = "error"
    """A step whose loss is not finite: error stops the run, skip leaves the step out and counts it."""
    clip_grad: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Largest norm of the gradient over all parameters."""
    loss: Named = Choice(name="cross-entropy")
    """The training loss: a name, or a mapping of name and options."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """How much of each target is spread evenly over all classes."""
    balance: Balance = "none"
    """Against imbalance: sampler draws each class equally often, weights lets each class count equally in the loss."""
    lr_curve: Named = Choice(name="cosine")
    """The learning rate over the run, with its warm-up: a name, or a mapping of name and options."""
    metrics: NamedList = ()
    """Further validation metrics to record: names, or mappings of name and options."""
    callbacks: NamedList = ()
    """Callbacks of the training loop: names, or mappings of name and options."""
    monitor: str = "accuracy"
    """The validation metric that selects the best epoch."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many epochs without a better one; counted anew where other groups begin to train."""
    patience_from: PatienceFrom = "last-phase"
    """Where patience begins: last-phase is the first epoch of the last phase, so that no thaw is missed; start is the
    first epoch of the run."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Everything random in a run follows from it."""

    device: Device = "auto"
    """Where to train; auto takes an accelerator where there is one."""
    precision: Precision = "auto"
    """Arithmetic of the forward and backward pass; auto takes bf16 where the device is fast at it."""
    compile: bool = False
    """Let torch.compile make the forward and backward pass of each phase; it takes a minute and pays on GPUs."""
    fsdp: bool = False
    """Share weights, gradients and the optimizer's state out over the processes, for networks that are too large
    for one device."""
    zero_stage: int = Field(default=0, ge=0, le=2)
    """What DeepSpeed's ZeRO shares out over the processes: 1 the optimizer's state, 2 gradients too, 0 nothing."""
    workers: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] = "auto"
    """Processes that read images; 0 reads them in the training process itself."""

    tracker: tuple[Tracker, ...] = ()
    """Where to send the records beside the run folder."""
    output: str = "runs"
    """Folder that run folders are made in; in a file, relative to it, and by default in the working folder."""
    name: str | None = None
    """The run folder's name; unset, made of date, backbone and strategy."""
    cache: Cache = Cache()
    """The activations of frozen layers, computed once."""
    checkpoint: Checkpoint = Checkpoint()
    """What is kept so that a run can be resumed."""
