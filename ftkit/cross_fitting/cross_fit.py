"""A cross-fitted run: its folds one after another, then the final model; and the choice between it and a plain run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from ftkit.cross_fitting.final_model import combine, final_card
from ftkit.cross_fitting.fold_runs import Fold, resume_command, stopped_at_once, train_folds
from ftkit.cross_fitting.share_choice import Candidate, choose, evaluate_shares
from ftkit.distributed import launch_env
from ftkit.distributed.processes import run_on_main
from ftkit.errors import FtkitError, RequestError, RunInterrupted, plural
from ftkit.evaluation.calibration_images import CROSS_FITTED, store_scores
from ftkit.evaluation.out_of_fold import write_out_of_fold
from ftkit.files.durable import replace_file
from ftkit.files.json_text import dump_json
from ftkit.metrics.multiclass_outputs import MulticlassOutputs
from ftkit.models.bundle import save_bundle
from ftkit.planning.run_plan import Plan
from ftkit.runs.cross_fitting_record import CrossFitting, FoldResult, ShareResult
from ftkit.runs.run_folder import RunFolder
from ftkit.training.events import Listener
from ftkit.training.preparation.run_inputs import changed_inputs, run_inputs
from ftkit.training.run_start import require_unfinished
from ftkit.training.stop_signals import StopFlag, stop_flag
from ftkit.training.train import Outcome, train
from ftkit.uncertainty.calibrated_network import calibrated_logits
from ftkit.uncertainty.calibration import Calibration


def execute(
    plan: Plan, run: RunFolder, listener: Listener | None = None, resume: bool = False, other_world: bool = False
) -> Outcome:
    """Execute a plan in a run folder, cross-fitted where the plan asks for it; args and errors as `train`."""
    if not plan.fold_sizes:
        return train(plan, run, listener, resume, other_world)
    return cross_fit(plan, run, listener or Listener(), resume, other_world)


def cross_fit(plan: Plan, run: RunFolder, listener: Listener, resume: bool, other_world: bool) -> Outcome:
    """Train the folds of a run, and make its final model of them.

    Args:
        listener: Called with the events of each fold's run in turn.

    Raises:
        RequestError: The run is finished, or its inputs have changed.
        FtkitError: A fold failed; finished folds are kept.
        RunInterrupted: A signal came; what was trained is on the disk.
    """
    is_main = launch_env.rank() == 0
    if resume:
        require_unfinished(run)
    with stop_flag() as flag, stopped_at_once(run, flag, _stopped), run.locked() if is_main else nullcontext():
        try:
            run_on_main(partial(check_inputs, plan, run, resume))
            folds = train_folds(plan, run, listener, flag, other_world)
        except FtkitError:
            if is_main and not resume and not any(run.folds.glob("*")):
                run.discard()
            raise
        if is_main:
            listener.note(f"the {len(folds)} folds are trained; their weights are evaluated on all training images")
        record = run_on_main(partial(_finish, plan, run, folds, flag))
    return Outcome(run, [record], record, False)


def check_inputs(plan: Plan, run: RunFolder, resume: bool) -> None:
    """Record the inputs of a new run; refuse to resume one whose inputs have changed.

    Raises:
        RequestError: Names the change.
    """
    if not resume or not run.inputs.is_file():
        replace_file(run.inputs, dump_json(run_inputs(plan), indent=1).encode() + b"\n")
        return
    changed = changed_inputs(run, plan)
    if changed is not None:
        raise RequestError(f"{run.path} can't resume: {changed}", "put it back as it was, or start a new run")


def _finish(plan: Plan, run: RunFolder, folds: Sequence[Fold], flag: StopFlag) -> dict[str, Any]:
    """Make the final model, and write what was found; the record that ends the run is written last.

    Returns:
        The run's record in `metrics.jsonl`.
    """

    def check(where: str) -> None:
        signum = flag.check()
        if signum:
            flag.acknowledge()
            raise RunInterrupted(f"stopped {where}; all folds are trained", resume_command(run), signum)

    candidates = evaluate_shares(plan, folds, check)
    best = choose(plan, candidates)
    check("before the final model is made")
    with flag.unhurried():
        final = combine(folds, best.share)
        card = final_card(plan, final, best.found, best.metrics)
        write_out_of_fold(run, best.found, plan.splits.classes, plan.task, card.decision, card.calibration)
        save_bundle(run.model, final.loaded.model, card)
        _store_scores(plan, run, best, card.calibration)
        record = _record(best, folds)
        run.rewind_records(-1)
        run.append_record(record)
        result = _result(plan, folds, candidates, best, final.description)
        replace_file(run.cross_fitting, dump_json(result.to_json(), indent=1).encode() + b"\n")
    return record


def _store_scores(plan: Plan, run: RunFolder, best: Candidate, calibration: Calibration | None) -> None:
    """Store the scores that prediction sets and rejection need, where each image has one class."""
    logits = calibrated_logits(best.found.logits, calibration)
    outputs = plan.task.outputs(logits, best.found.targets, plan.splits.classes)
    if isinstance(outputs, MulticlassOutputs) and outputs.finite.all():
        store_scores(run.model, outputs, CROSS_FITTED, True)


def _record(best: Candidate, folds: Sequence[Fold]) -> dict[str, Any]:
    """The one record of the run: out-of-fold metrics as those of the validation, and the time of all folds."""
    records = [fold.run.records() for fold in folds]
    return {
        "epoch": max(int(one[-1]["epoch"]) for one in records),
        "share": best.share,
        **{f"val_{name}": value for name, value in best.metrics.items()},
        "seconds": round(sum(record["seconds"] for one in records for record in one), 3),
    }


def _result(
    plan: Plan, folds: Sequence[Fold], candidates: Sequence[Candidate], best: Candidate, model: str
) -> CrossFitting:
    return CrossFitting(
        folds=tuple(FoldResult(fold.number, *fold.plan.images, int(fold.run.records()[-1]["epoch"])) for fold in folds),
        monitor=plan.config.monitor,
        shares=tuple(ShareResult(one.share, one.metrics) for one in candidates),
        share=best.share,
        model=model,
    )


def _stopped(run: RunFolder) -> str:
    """What to say of a run that was stopped at once."""
    done = sum(RunFolder(folder).is_finished for folder in run.folds.glob("[0-9]*"))
    return f"stopped at once; {plural(done, 'fold is', 'folds are')} trained"
