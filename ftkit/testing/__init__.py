"""Contract checks for authors of plugins; ftkit's own tests use them too.

    from ftkit.testing import check_strategy

    def test_the_contract():
        check_strategy(TopDown(all_at=2))

Each check raises `ContractError` at the first violation. With ftkit installed, pytest has the fixtures `ftkit_images`,
which creates a small folder of images, and `ftkit_project`, which writes files and runs ftkit in their folder.
"""

from ftkit.testing.checks.backbone_checks import check_backbone
from ftkit.testing.checks.batch_transform_checks import check_batch_transform
from ftkit.testing.checks.callback_checks import check_callback
from ftkit.testing.checks.curve_checks import check_curve
from ftkit.testing.checks.dataset_checks import check_dataset
from ftkit.testing.checks.exporter_checks import check_exporter
from ftkit.testing.checks.image_transform_checks import check_image_transform
from ftkit.testing.checks.loss_checks import check_loss
from ftkit.testing.checks.metric_checks import check_metric
from ftkit.testing.checks.optimizer_checks import check_optimizer
from ftkit.testing.checks.strategy_checks import check_strategy
from ftkit.testing.checks.task_checks import check_task
from ftkit.testing.contract import ContractError
from ftkit.testing.network_cuts import check_cuts
from ftkit.testing.project import Project, make_project
from ftkit.testing.sample_images import draw_image, make_image_folder

__all__ = [
    "ContractError",
    "Project",
    "check_backbone",
    "check_batch_transform",
    "check_callback",
    "check_curve",
    "check_cuts",
    "check_dataset",
    "check_exporter",
    "check_image_transform",
    "check_loss",
    "check_metric",
    "check_optimizer",
    "check_strategy",
    "check_task",
    "draw_image",
    "make_image_folder",
    "make_project",
]
