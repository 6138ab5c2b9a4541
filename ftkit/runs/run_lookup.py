"""Run folders and model bundles found by path or by name. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from ftkit.errors import RequestError, shell_word, unknown
from ftkit.files.folder_swap import current_folder
from ftkit.runs.model_card import CARD, WEIGHTS

MODEL = "model"
"""The folder of the model inside a run folder."""
CHECKPOINTS = "checkpoints"
_RUN_MARKS = ("config.yaml", "plan.json", CHECKPOINTS)


def find_model(spec: str | None, runs_dir: Path) -> Path:
    """The model folder that a command names.

    Args:
        spec: A model folder, a file in it, a run folder, or a run's name; None is the latest run with a model.
        runs_dir: The parent of run folders.

    Returns:
        An existing folder; loading it checks its content.

    Raises:
        RequestError: There is nothing, or a run without a model yet.
    """
    if spec is None:
        return _latest(runs_dir)
    places = (Path(spec), runs_dir / spec)
    for place in places:
        refuse_run_part(place)
        folder = place.parent if place.name in (CARD, WEIGHTS) else place
        for bundle in (current_folder(folder), current_folder(folder / MODEL)):
            if _is_bundle(bundle):
                return bundle
    stopped = next((place for place in places if _is_run(place)), None)
    if stopped is not None:
        raise RequestError(
            f"{stopped}: the run has no model yet: it is still training, or was stopped",
            f"ftkit train --resume {shell_word(stopped)}",
        )
    names = [run.name for run in run_folders(runs_dir)]
    if Path(spec).exists() or not names:
        what = "is neither a run nor a model" if Path(spec).exists() else "isn't there"
        raise RequestError(f"{spec} {what}", "give a run's folder or name, or a model folder; ftkit train makes one")
    raise unknown("run", spec, names, str(runs_dir))


def refuse_run_part(path: Path) -> None:
    """Refuse weights in a run folder that aren't a model: checkpoints, and the first weights.

    Args:
        path: A folder, or a file in it.

    Raises:
        RequestError: It is one of them; names the run's model.
    """
    folder = path if path.is_dir() else path.parent
    run, what = folder.parent, "a run's first weights, without its buffers"
    if (folder / "state.json").is_file() and (folder / "optimizer.safetensors").is_file():
        run, what = run.parent, "a checkpoint to resume from, which keeps frozen layers in another file"
    elif path.is_dir() and folder.name == CHECKPOINTS and (folder / "LATEST").is_file():
        what = "the checkpoints that a run resumes from"
    elif folder.name != "first" or not (run / "plan.json").is_file():
        return
    has_model = _is_bundle(current_folder(run / MODEL))
    raise RequestError(
        f"{path} is not a model: it is {what}",
        f"give {run / MODEL}" if has_model else f"finish the run first: ftkit train --resume {run}",
    )


def find_run(spec: str, runs_dir: Path) -> Path:
    """The run folder of a path or a name.

    Raises:
        RequestError: There is no such run.
    """
    for place in (Path(spec), runs_dir / spec):
        if _is_run(place):
            return place
    if Path(spec).exists():
        raise RequestError(f"{spec} is not a run", "give a run's folder or name; ftkit runs list shows them")
    names = [run.name for run in run_folders(runs_dir)]
    if not names:
        raise RequestError(f"no run {spec}, nor any other in {runs_dir}", "ftkit train makes one")
    raise unknown("run", spec, names, str(runs_dir))


def run_of(bundle: Path) -> Path | None:
    """The run folder that contains a model folder; None for a model outside a run."""
    return bundle.parent if _is_run(bundle.parent) else None


def _latest(runs_dir: Path) -> Path:
    runs = run_folders(runs_dir)
    bundles = [bundle for run in runs if _is_bundle(bundle := current_folder(run / MODEL))]
    if bundles:
        return max(bundles, key=lambda bundle: bundle.stat().st_mtime_ns)
    if runs:
        newest = max(runs, key=lambda run: run.stat().st_mtime_ns)
        raise RequestError(f"no run in {runs_dir} has a model yet", f"ftkit train --resume {shell_word(newest)}")
    raise RequestError(f"no trained run in {runs_dir}", "ftkit train makes one; or give a model with --model")


def run_folders(runs_dir: Path) -> list[Path]:
    """The run folders in a folder, by name."""
    return sorted(place for place in runs_dir.iterdir() if _is_run(place)) if runs_dir.is_dir() else []


def _is_run(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in _RUN_MARKS)


def _is_bundle(folder: Path) -> bool:
    # One of the two files is enough: loading reports the missing one.
    return (folder / CARD).is_file() or (folder / WEIGHTS).is_file()
