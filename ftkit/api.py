"""The API for plugins. The built-in plugins import nothing else of ftkit."""

from ftkit.data.images import ImageFiles, UnreadableImage, decode_image, is_image, open_image
from ftkit.data.label_columns import Labelled, label_splits
from ftkit.data.lazy_sequence import LazySequence
from ftkit.data.sampling import stratified_sample, stratified_split
from ftkit.data.walk import SkippedFiles, list_folder, walk_images
from ftkit.distributed.cores import available_cores
from ftkit.errors import FtkitError, RequestError, check_number, nearest, one_line, plural, unknown
from ftkit.files.file_identity import Stamp, file_stamp
from ftkit.files.file_kinds import kind_of_file
from ftkit.files.user_cache import cache_folder
from ftkit.metrics.multiclass_outputs import MulticlassOutputs
from ftkit.metrics.multilabel_outputs import MultilabelOutputs
from ftkit.metrics.outputs import Outputs
from ftkit.models.group_patterns import layer_groups
from ftkit.parts.backbone import (
    ROLES,
    Backbone,
    GroupSize,
    LayerGroup,
    Pretrained,
    Role,
    Summary,
    group_of,
)
from ftkit.parts.callback import Callback
from ftkit.parts.curve import Curve
from ftkit.parts.dataset import (
    SPLIT_NAMES,
    SPLIT_SYNONYMS,
    Dataset,
    Split,
    SplitName,
    Splits,
    class_order,
    join_splits,
    relabel,
)
from ftkit.parts.exporter import Exporter, TrainedModel
from ftkit.parts.label_sets import Label, Labels, LabelSets, label_set
from ftkit.parts.loss import Loss
from ftkit.parts.metric import Array, MeanMetric, Metric, Resampler, UndefinedMetricError
from ftkit.parts.optimizer import Optimizer
from ftkit.parts.random_transforms import BatchTransform, ImageTransform
from ftkit.parts.strategy import Strategy, Then
from ftkit.parts.task import AdviceBasis, HeadFit, Task, class_counts
from ftkit.plugins.hookspecs import hookimpl
from ftkit.plugins.optional_packages import is_installed
from ftkit.strategies.schedule import Phase, Schedule, make_schedule
from ftkit.tasks.multiclass import Multiclass
from ftkit.tasks.multilabel import Multilabel
from ftkit.transforms.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ROLES",
    "SPLIT_NAMES",
    "SPLIT_SYNONYMS",
    "AdviceBasis",
    "Array",
    "Backbone",
    "BatchTransform",
    "Callback",
    "Curve",
    "Dataset",
    "Exporter",
    "FtkitError",
    "GroupSize",
    "HeadFit",
    "ImageFiles",
    "ImageTransform",
    "Interpolation",
    "Label",
    "LabelSets",
    "Labelled",
    "Labels",
    "LayerGroup",
    "LazySequence",
    "Loss",
    "MeanMetric",
    "Metric",
    "Multiclass",
    "MulticlassOutputs",
    "Multilabel",
    "MultilabelOutputs",
    "Optimizer",
    "Outputs",
    "Phase",
    "Preprocessing",
    "Pretrained",
    "RequestError",
    "Resampler",
    "Role",
    "Schedule",
    "SkippedFiles",
    "Split",
    "SplitName",
    "Splits",
    "Stamp",
    "Strategy",
    "Summary",
    "Task",
    "Then",
    "TrainedModel",
    "UndefinedMetricError",
    "UnreadableImage",
    "available_cores",
    "cache_folder",
    "check_number",
    "class_counts",
    "class_order",
    "decode_image",
    "file_stamp",
    "group_of",
    "hookimpl",
    "is_image",
    "is_installed",
    "join_splits",
    "kind_of_file",
    "label_set",
    "label_splits",
    "layer_groups",
    "list_folder",
    "make_schedule",
    "nearest",
    "one_line",
    "open_image",
    "plural",
    "relabel",
    "stratified_sample",
    "stratified_split",
    "unknown",
    "walk_images",
]
