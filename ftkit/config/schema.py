"""The keys of `ftkit.yaml`, with defaults and bounds. The docstrings are their documentation in the JSON schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ftkit.config.choices import (
    AugmentOn,
    BadImage,
    Balance,
    CalibrationMethod,
    Decoded,
    Device,
    OnNan,
    PatienceFrom,
    Precision,
    Scan,
    Tracker,
    Validation,
)
from ftkit.config.field_types import (
    Choice,
    ClassName,
    DatasetChoice,
    Named,
    NamedDataset,
    NamedList,
    NamedOptimizer,
    OptimizerChoice,
    Rate,
    Seconds,
    Section,
    as_bytes,
    as_digit,
    as_seconds,
    join_dotted,
)
from ftkit.data.batch_sizes import BATCH_SIZE
from ftkit.transforms.preprocessing import Fit, Interpolation

MOST_EPOCHS = 1_000_000
"""Limits the size of a plan, which has one row per epoch."""


class PreprocessingOverrides(Section):
    """Preprocessing of images. Keys that are set override the preprocessing of the weights or the backbone."""

    size: int | None = Field(default=None, ge=1)
    """Input size: side of the square image, in pixels."""
    crop_pct: float | None = Field(default=None, gt=0, le=1)
    """Fraction of the shorter side that the center crop keeps, above 0 to 1."""
    interpolation: Interpolation | None = None
    """Interpolation for resizing."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, of values scaled to 0 to 1."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, of values scaled to 0 to 1."""
    channels: Annotated[Literal[1, 3] | None, BeforeValidator(as_digit)] = None
    """Image channels. 1 converts images to grayscale and sums the first convolution's weights over the channels."""
    fit: Fit | None = None
    """How images become square. crop: center crop; pad: add borders; stretch: change the aspect ratio."""


class Head(Section):
    """The classifier head; one linear layer by default."""

    hidden: int | None = Field(default=None, ge=1)
    """Width of a hidden layer with ReLU before the last layer; null for none."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout probability before the last layer, in addition to the backbone's own dropout."""


class Checkpoint(Section):
    """Checkpoints to resume from. One is saved at the end of an epoch, at most every `min_seconds`."""

    every_steps: int | None = Field(default=None, ge=1)
    """Also save one every so many optimizer steps."""
    every_minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Also save one every so many minutes."""
    min_seconds: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """Minimum seconds between checkpoints at the ends of epochs; the last epoch of a phase always saves one."""
    keep: int = Field(default=2, ge=1)
    """Number of most recent checkpoints to keep."""


class Cache(Section):
    """The cache of frozen layers' activations, and of decoded images."""

    use: bool = True
    """Compute frozen layers once per image and cache the result; otherwise in each epoch."""
    augmentations: int = Field(default=2, ge=1)
    """Cached augmentations per image: the first is the image without augmentation, the others are augmented."""
    decoded: Decoded = "auto"
    """Where to cache decoded images. off: decode them in each epoch; ram or disk: keep them, if they fit; auto: ram for
    5,000 image files or fewer that take 1 GB or less, and a quarter of the available memory or less, unless
    unreadable ones are skipped; on a CPU only for images with eight times as many pixels as the network's input."""
    limit: Annotated[int, BeforeValidator(as_bytes)] = Field(default=20_000_000_000, ge=0)
    """Size limit of the activation cache over all runs, in bytes or such as 20GB. Least recently used entries are
    removed first."""
    dir: str | None = None
    """Folder of the cache; by default FTKIT_CACHE_DIR, or the user's cache folder."""


class Distillation(Section):
    """Training with a teacher."""

    weight: float = Field(default=0.5, gt=0, le=1)
    """Weight of the loss against the teacher's outputs, above 0 to 1; the rest is that of the labels."""
    temperature: float = Field(default=2.0, gt=0, le=100)
    """Temperature: divides the logits of network and teacher before their probabilities are compared."""


class Config(Section):
    """The configuration of a run. The run folder's config.yaml starts the same run again."""

    plugins: tuple[str, ...] = ()
    """Paths of the project's plugin files, relative to the config file."""

    dataset: NamedDataset = DatasetChoice(name="digits")
    """Dataset: a name, or a mapping of name and options."""
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Fraction of the training images held out for validation if the dataset has no validation split."""
    validation: Validation = "auto"
    """Validation images. holdout: the dataset's validation split, or held-out training images; kfold: cross-fitting, in
    which each training image is validated by a model that wasn't trained on it; auto: kfold for 1,000 images or fewer
    with pretrained weights, no validation split and a budget that isn't null, otherwise holdout."""
    folds: int = Field(default=5, ge=2)
    """Cross-fitting: number of parts that the training images are divided into, and of models that are trained."""
    budget: Annotated[Seconds | Literal["auto"] | None, BeforeValidator(as_seconds)] = "auto"
    """Time for a search of strategy, learning rate, augmentation and number of epochs, in seconds or such as 10m or
    1h30m: recipes are trained in turn, and the best one becomes the run. auto: four recipes are compared if
    none of these is set and the weights are pretrained; null: no search."""
    fold: int | None = Field(default=None, ge=1)
    """Cross-fitting: train only the model of this fold, from 1; its validation images are this part."""
    train_samples: int | None = Field(default=None, ge=1)
    """Number of training images to use, a random sample stratified by class; by default all."""
    val_samples: int | None = Field(default=None, ge=1)
    """Number of validation images to use, a random sample stratified by class; by default all."""
    on_bad_image: BadImage = "error"
    """Unreadable image files. error: fail before training and name them; skip: leave them out."""
    scan: Scan = "full"
    """Image files to read before training, for unreadable ones and duplicates. full: all; sample: 10,000 of each
    split, at random; off: none."""

    classes: tuple[ClassName, ...] | None = None
    """Classes to use, in this order; by default all."""
    label_map: Annotated[dict[str, ClassName] | None, BeforeValidator(join_dotted)] = None
    """New class name for each class in use, such as {0: even, 1: odd}; classes with the same new name are merged."""

    task: Named = Choice(name="auto")
    """What the labels are: multiclass, one class per image; multilabel, any number; auto takes it from the data."""

    backbone: str = "auto"
    """Backbone network; see `ftkit backbones list`. auto: chosen for the images and the machine, as `ftkit plan`
    shows."""
    weights: str | None = None
    """Initial weights: default, none, the name of pretrained weights, or a file; by default the strategy's choice."""
    weights_key: str | None = None
    """State dict to load from a weights file that has several, such as model_ema; by default the raw weights."""
    allow_partial: bool = False
    """Accept a weights file with missing or unexpected tensors; missing ones are initialized at random."""
    keep_head: bool = False
    """Keep the pretrained head. Its classes must be those of the data; they are reordered by name."""
    head: Head = Head()
    """The classifier head."""
    drop_path: float | None = Field(default=None, ge=0, lt=1)
    """Stochastic-depth rate of the backbone's last block, growing linearly from 0 over its blocks; unset, its own."""
    backbone_dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout rate of the backbone's own dropout layers; unset, their own."""
    preprocessing: PreprocessingOverrides = PreprocessingOverrides()
    """Overrides of the preprocessing that the weights were trained with."""
    augment: Named = Choice(name="light")
    """Data augmentation: a name, or a mapping of name and options. none; light: random crops of 80 % or more of the
    area; standard: smaller crops and horizontal flips; strong: also TrivialAugment and random erasing;
    trivialaugment, randaugment, autoaugment: standard and that policy."""
    augment_on: AugmentOn = "auto"
    """Where images are augmented after cropping. workers: in the data-loading processes; device: in batches on the
    device; auto: device with CUDA, otherwise workers."""

    image_transforms: NamedList = ()
    """Random transforms of single training images, applied in order: names, or mappings of name and options."""
    batch_transforms: NamedList = ()
    """Random transforms of training batches, one of them per batch: names, or mappings of name and options."""

    strategy: Named = Choice(name="gradual")
    """Fine-tuning strategy: which layer groups train in which epoch and at what learning rate. A name, or a mapping of
    name and options."""
    probe: bool = True
    """Initialize the head by logistic regression on the frozen features of pretrained weights; the best model is never
    worse than it on the validation split."""
    group_lr: Annotated[dict[str, Rate], BeforeValidator(join_dotted)] = Field(default={})
    """Learning rate by layer group, instead of the base rate times the strategy's scale."""
    train_bn: bool = False
    """Update BatchNorm running statistics in frozen layer groups too."""
    epochs: int = Field(default=10, ge=0, le=MOST_EPOCHS)
    """Number of epochs; 0 saves a model of the initial weights."""
    extended_from: int | None = Field(default=None, ge=1)
    """Number of epochs before `--extend`; later epochs train the layer groups of the last one."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = BATCH_SIZE
    """Images per batch and process. auto: 32 times `accumulate` images per step and process, in the largest batches
    that fit into memory, tried on the device before the run."""
    accumulate: int = Field(default=1, ge=1)
    """Gradient accumulation steps: batches per optimizer step."""
    optimizer: NamedOptimizer = OptimizerChoice()
    """Optimizer: a name, or a mapping of name, lr and options."""
    decay_all: bool = False
    """Apply weight decay to biases and normalization parameters too."""
    on_nan: OnNan = "error"
    """Steps whose loss or gradients are not finite. error: fail; skip: skip the step and count it."""
    clip_grad: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Clip the gradient norm over all parameters to this value."""
    loss: Named = Choice(name="auto")
    """Training loss: a name, or a mapping of name and options; auto is the task's default."""
    teacher: str | None = None
    """A trained model whose outputs the network learns beside the labels: a run or a model folder. Its classes must be
    those of the data; they are reordered by name."""
    distillation: Distillation = Distillation()
    """Weight and temperature of the loss against the teacher."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label-smoothing factor, 0 or more and less than 1."""
    balance: Balance = "none"
    """Class-imbalance handling. sampler: sample each class equally often, or with several labels per image, each image
    by the weight of its rarest class; weights: weight each class equally in the loss."""
    lr_curve: Named = Choice(name="cosine")
    """Learning-rate curve over the run, with warm-up: a name, or a mapping of name and options."""
    metrics: NamedList = ()
    """Further metrics to compute on the validation split: names, or mappings of name and options."""
    callbacks: NamedList = ()
    """Callbacks of the training loop: names, or mappings of name and options."""
    monitor: str = "auto"
    """Validation metric that selects the best epoch."""
    patience: int | None = Field(default=None, ge=1)
    """Early stopping: number of epochs without improvement; the count restarts when a phase begins."""
    patience_from: PatienceFrom = "last-phase"
    """Epoch from which patience counts. last-phase: the first epoch of the last phase, after all unfreezing; start: the
    first epoch of the run."""
    weight_averaging: bool = True
    """After the last epoch, also evaluate weights between the first and the last ones and the mean of the last epochs,
    and keep the best. Only with pretrained weights."""
    calibration: CalibrationMethod = "auto"
    """Calibration of the model's probabilities on validation outputs, kept where it lowers the log loss of images that
    it wasn't fitted on. temperature: one factor for all logits; vector: a factor and a summand for each class; auto:
    temperature; off: none."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Random seed."""

    device: Device = "auto"
    """Device to train on. auto: CUDA or MPS if available, otherwise the CPU."""
    precision: Precision = "auto"
    """Numeric precision of training and evaluation. auto: bf16 where device and network are fast at it, else fp32."""
    compile: bool = False
    """Compile the model with torch.compile in each phase. It takes about a minute and pays off on GPUs."""
    fsdp: bool = False
    """Shard weights, gradients and optimizer state over the processes (FSDP2), for large networks."""
    zero_stage: int = Field(default=0, ge=0, le=2)
    """DeepSpeed ZeRO stage: 1 shards the optimizer state over the processes, 2 the gradients too, 0 is off."""
    workers: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] = "auto"
    """Number of data-loading processes; 0 loads images in the training process."""

    novelty_features: bool = True
    """At the end of the run, store features of up to 2,000 training images beside the model: predict --novelty then
    depends on the distance to them too."""
    report: bool = True
    """At the end of the run, write report.html into the run folder, with the results on the test split, else on the
    validation split."""
    tracker: tuple[Tracker, ...] = ()
    """Experiment trackers to log to, in addition to the run folder."""
    output: str = "runs"
    """Folder of the run folders, relative to the config file that sets it, otherwise to the working folder."""
    name: str | None = None
    """Name of the run folder; by default made of date, backbone and strategy."""
    cache: Cache = Cache()
    """The activation cache and the cache of decoded images."""
    checkpoint: Checkpoint = Checkpoint()
    """Checkpoints to resume from."""


def shared_options(section: str) -> tuple[str, ...]:
    """Keys of a section that every part has; they keep their values when the section names another part."""
    field = Config.model_fields.get(section)
    default = field.get_default() if field is not None else None
    return tuple(name for name in type(default).model_fields if name != "name") if isinstance(default, Choice) else ()
