"""Names of the optimizers and of their options, free of imports so that help and completion can list them."""

from __future__ import annotations

OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "adadelta": ("rho", "eps", "weight_decay"),
    "adafactor": ("beta2_decay", "eps", "d", "weight_decay"),
    "adagrad": ("lr_decay", "weight_decay", "initial_accumulator_value", "eps", "fused"),
    "adam": ("betas", "eps", "weight_decay", "amsgrad", "decoupled_weight_decay", "fused"),
    "adamax": ("betas", "eps", "weight_decay"),
    "adamw": ("betas", "eps", "weight_decay", "amsgrad", "fused"),
    "asgd": ("lambd", "alpha", "t0", "weight_decay"),
    "nadam": ("betas", "eps", "weight_decay", "momentum_decay", "decoupled_weight_decay"),
    "radam": ("betas", "eps", "weight_decay", "decoupled_weight_decay"),
    "rmsprop": ("alpha", "eps", "weight_decay", "momentum", "centered"),
    "rprop": ("etas", "step_sizes"),
    "sgd": ("momentum", "dampening", "weight_decay", "nesterov", "fused"),
}
"""Classes of torch.optim in lower case with their options beside `lr`, less those that can't train every layer
by one plain step: LBFGS wants a closure, SparseAdam sparse gradients, Muon matrices."""

DEFAULT_DECAY: dict[str, float] = {"adamw": 0.01}
"""Weight decay of the optimizers that have one unless told otherwise."""
