"""The networks of the folds between their first and their last weights, and their outputs for the fold's images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from safetensors.torch import save
from torch import Tensor, nn

from ftkit.cross_fitting.fold_runs import Fold
from ftkit.evaluation.evaluator import ComputeOptions, compute_logits
from ftkit.files.durable import replace_file
from ftkit.files.tensor_files import load_tensors
from ftkit.models.build import build_model
from ftkit.models.bundle import load_bundle
from ftkit.models.weights.interpolation import interpolate
from ftkit.models.weights.pretrained import restore_weights
from ftkit.planning import averaging
from ftkit.planning.run_plan import Plan
from ftkit.plugin_errors import plugin_boundary
from ftkit.runs.model_card import WEIGHTS
from ftkit.runs.run_folder import RunFolder

State = Mapping[str, Tensor]
SHARES = (0.0, *averaging.SHARES, 1.0)
"""Shares of the way from the first to the last weights at which networks are evaluated, where the first classify."""


class FoldNetwork:
    """A fold's network at any share of the way from its first to its last weights.

    Attributes:
        loaded: The network, with the weights that were set last.
    """

    def __init__(self, fold: Fold) -> None:
        self.fold = fold
        plan = fold.plan
        self.loaded = load_bundle(fold.run.last, plan.config.device, "auto", plan.resolved.registry)
        self._last = {name: tensor.detach().cpu().clone() for name, tensor in self.loaded.model.state_dict().items()}
        self._first = first_state(plan, fold.run)

    def at(self, share: float) -> dict[str, Tensor]:
        """The state dict at a share, on the CPU."""
        return interpolate(self._first, self._last, share)

    def outputs(self, share: float) -> Tensor:
        """The logits at a share for the fold's validation images, float32 `(n, classes)`.

        Activations are never taken from the cache, whose content may differ when a run resumes: sums of other batches
        end with other last digits.
        """
        restore_weights(self.loaded.model, self.at(share))
        return compute_logits(self.loaded, self.fold.images, ComputeOptions())


def shares_of(plan: Plan) -> tuple[float, ...]:
    """The shares at which the networks of a run are evaluated.

    One share where no epoch is trained, or from a new random head: half the way from it is no better model.
    """
    if not plan.config.epochs:
        return SHARES[:1]
    return SHARES if averaging.starts_trained(plan) else SHARES[-1:]


def share_outputs(fold: Fold, check: Callable[[str], None]) -> dict[float, Tensor]:
    """The logits of a trained fold for its validation images, by share.

    They are computed once and stored in the fold's folder.

    Args:
        check: Called before each computation with a line on it; raises if a signal has come.
    """
    stored = fold.run.share_outputs
    if stored.is_file():
        tensors = load_tensors(stored, "remove it, and resume the run: it is computed again")
        return {share: tensors[f"{share:g}"] for share in shares_of(fold.plan)}
    network, found = FoldNetwork(fold), dict[float, Tensor]()
    for share in shares_of(fold.plan):
        check(f"in the evaluation of fold {fold.number}")
        found[share] = network.outputs(share)
    replace_file(stored, save({f"{share:g}": logits.contiguous() for share, logits in found.items()}))
    return found


def first_state(plan: Plan, run: RunFolder) -> dict[str, Tensor]:
    """The state dict of the network that a run started from, as a model of the run has it, on the CPU.

    The run folder has its parameters; buffers are those of the initial weights.
    """
    network = build_model(plan).network
    restore_weights(network, load_tensors(run.first / WEIGHTS), strict=False)
    with plugin_boundary(f"merged of strategy {plan.config.strategy.name!r}", plan.strategy):
        merged: nn.Module = plan.strategy.merged(network)
    return {name: tensor.detach().cpu().clone() for name, tensor in merged.state_dict().items()}
