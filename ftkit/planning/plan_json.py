"""A plan as JSON, and the comparison of a plan with a saved one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ftkit.activation_cache.policy import Use
from ftkit.config.choices import AUTO, LISTS

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON values."""
    return {
        "backbone": plan.config.backbone,
        "weights": plan.weights.describe(),
        **_data(plan),
        "head": asdict(plan.head),
        "drop_path": plan.config.drop_path,
        "backbone_dropout": plan.config.backbone_dropout,
        "preprocessing": asdict(plan.preprocessing),
        "augment": {"name": plan.config.augment.name, **asdict(plan.augmentation)},
        "strategy": {"name": plan.config.strategy.name, **asdict(plan.strategy)},  # type: ignore[call-overload]
        **_schedule(plan),
        **_training(plan),
        "steps_per_epoch": plan.batches.steps,
        "patience": {"epochs": plan.config.patience, "counted_from_epoch": plan.patience_start + 1}
        if plan.config.patience
        else None,
        "weight_averaging": None
        if plan.averaging is None
        else {"shares": list(plan.averaging.shares), "epochs": list(plan.averaging.epochs)},
        "world_size": plan.world_size,
        "per_process_batch": None if plan.config.batch_size == AUTO else plan.config.batch_size,
        "effective_batch": plan.batches.effective,
        "probe": plan.probe,
        "cache": {
            "augmentations": plan.cache_policy.variants,
            "disabled": plan.cache_policy.disabled or None,
            "phases": None if plan.cache_by_phase is None else [_use(use) for use in plan.cache_by_phase],
        },
        "notes": list(plan.notes),
    }


def _data(plan: Plan) -> dict[str, Any]:
    """Classes, splits, and what the image scan found."""
    return {
        "classes": list(plan.splits.classes),
        "data": {name: len(split) for name, split in plan.splits.present()},
        "fold_sizes": list(plan.fold_sizes) or None,
        "budget": plan.config.budget,
        "fingerprint": plan.fingerprint,
        "scan": {
            "files": plan.config.scan,
            "scanned": plan.findings.scanned,
            "unchecked": plan.findings.unchecked,
        },
        "bad_images": len(plan.findings.bad),
        "duplicates": sum(not one.contradicts for one in plan.findings.duplicates),
        "contradictions": sum(one.contradicts for one in plan.findings.duplicates),
    }


def _schedule(plan: Plan) -> dict[str, Any]:
    """Layer groups, learning rates and phases."""
    return {
        "groups": [{"name": g.name, "parameters": plan.parameters(g.name)} for g in plan.schedule.groups],
        "epochs": [
            {"lr_scale": dict(row), "lr": plan.learning_rates(epoch * plan.batches.steps)}
            for epoch, row in enumerate(plan.schedule.rows)
        ],
        "phases": [
            {
                "epochs": [p.start, p.stop],
                "trainable": plan.trainable_parameters(p),
                "steps": (p.stop - p.start) * plan.batches.steps,
                "memory_bytes": plan.memory_bytes(p),
            }
            for p in plan.schedule.phases
        ],
    }


def _training(plan: Plan) -> dict[str, Any]:
    """The parts that training uses."""
    return {
        **{name: [part.model_dump(mode="json") for part in getattr(plan.config, name)] for name in LISTS},
        "metrics": {
            name: {"label": metric.label, "lower_is_better": metric.lower_is_better}
            for name, metric in plan.metrics.items()
        },
        "teacher": None
        if plan.teacher is None
        else {**plan.teacher.facts, **plan.config.distillation.model_dump(mode="json")},
        "loss": plan.config.loss.model_dump(mode="json"),
        "optimizer": plan.config.optimizer.model_dump(mode="json"),
        "decay_all": plan.config.decay_all,
        "clip_grad": plan.config.clip_grad,
        "label_smoothing": plan.config.label_smoothing,
        "balance": plan.config.balance,
        "class_weights": None if plan.config.balance == "none" else list(plan.class_weights),
    }


def _use(use: Use) -> dict[str, Any] | None:
    if use.cut is None:
        return None
    return {"before": use.cut.name, "augmentations": list(use.variants), "bytes": use.nbytes, "passes": use.passes}


def schedule_change(saved: Mapping[str, Any], plan: Plan) -> str | None:
    """How the training of a plan differs from a saved plan, as text; None if it doesn't.

    Args:
        saved: The result of `Plan.to_json`, with no more epochs than the plan.
    """
    strategy, began = plan.config.strategy.name, [dict(epoch["lr_scale"]) for epoch in saved["epochs"]]
    if len(began) > len(plan.schedule.rows):
        return f"its plan has {len(began)} epochs, now there are {len(plan.schedule.rows)}"
    for epoch, before in enumerate(began):
        now = dict(plan.schedule.rows[epoch])
        group = next((name for name in {**now, **before} if now.get(name) != before.get(name)), None)
        if group is not None:
            return (
                f"strategy {strategy!r} has changed: in epoch {epoch + 1}, group {group!r} was "
                f"{_scale(before.get(group))} by plan.json, now it is {_scale(now.get(group))}"
            )
    plain = json.loads(json.dumps(plan.to_json()))
    for what in ("preprocessing", "augment", "head"):
        # A later version may have more settings.
        before = saved.get(what, {})
        now = {key: plain[what].get(key) for key in before}
        if before != now:
            return f"{what} was {json.dumps(before)} by plan.json, now it is {json.dumps(now)}"
    groups = [group["name"] for group in saved["groups"]]
    if groups != [group.name for group in plan.schedule.groups]:
        return f"its layer groups were {', '.join(groups)}"
    return None


def _scale(value: float | None) -> str:
    return "frozen" if value is None else f"trained at {value:g} times the rate"
