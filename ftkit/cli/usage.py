"""Command-line mistakes as one-line errors that suggest the intended flag."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ftkit.errors import RequestError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import typer

FLAG_ALIASES: dict[str, tuple[str, ...]] = {
    "--accelerator": ("--device",),
    "--aa": ("--augment",),
    "--amp": ("--precision",),
    "--arch": ("--backbone",),
    "--batch": ("--batch-size",),
    "--bf16": ("--precision",),
    "--bs": ("--batch-size",),
    "--cfg": ("--config",),
    "--checkpoint": ("--resume", "--model"),
    "--conf": ("--config",),
    "--data-dir": ("--data",),
    "--data-path": ("--data",),
    "--early-stopping": ("--patience",),
    "--exist-ok": ("--force",),
    "--fp16": ("--precision",),
    "--fraction": ("--train-samples",),
    "--grad-accum-steps": ("--accumulate",),
    "--gradient-accumulation-steps": ("--accumulate",),
    "--image-dir": ("--data",),
    "--img": ("--image-size",),
    "--img-size": ("--image-size",),
    "--imgsz": ("--image-size",),
    "--input-size": ("--image-size",),
    "--learning-rate": ("--lr",),
    "--lr0": ("--lr",),
    "--max-epochs": ("--epochs",),
    "--max-eval-samples": ("--val-samples",),
    "--max-train-samples": ("--train-samples",),
    "--metric-for-best-model": ("--monitor",),
    "--mixed-precision": ("--precision",),
    "--model": ("--backbone",),
    "--model-name-or-path": ("--backbone",),
    "--num-epochs": ("--epochs",),
    "--num-train-epochs": ("--epochs",),
    "--num-workers": ("--workers",),
    "--opt": ("--optimizer",),
    "--out": ("--output",),
    "--output-dir": ("--output",),
    "--nproc-per-node": ("--num-processes",),
    "--per-device-train-batch-size": ("--batch-size",),
    "--pretrained": ("--weights",),
    "--project": ("--output",),
    "--resize": ("--image-size",),
    "--resume-from-checkpoint": ("--resume",),
    "--root": ("--data",),
    "--run-name": ("--name",),
    "--topk": ("--top-k",),
    "--torch-compile": ("--compile",),
    "--torchcompile": ("--compile",),
    "--train-batch-size": ("--batch-size",),
    "--train-dir": ("--data",),
    "--use-deepspeed": ("--zero-stage",),
    "--use-fsdp": ("--fsdp",),
    "--weights-path": ("--weights",),
    "-b": ("--batch-size",),
    "-j": ("--workers",),
    "-o": ("--output",),
}
"""Names of our flags in timm, Ultralytics, Hugging Face and the tutorials."""

COMMAND_ALIASES = {
    "create": "init",
    "eval": "evaluate",
    "finetune": "train",
    "fit": "train",
    "infer": "predict",
    "models": "backbones",
    "new": "init",
    "test": "evaluate",
    "val": "evaluate",
}
"""Names of our commands in other tools."""


def check_not_empty(arguments: Sequence[str]) -> None:
    """Check that no value is an empty string, which as a path would mean the working folder.

    Raises:
        RequestError: A value is empty.
    """
    remedy = "a shell variable may be unset: give a value, or leave the flag out"
    for before, text in zip(["", *arguments], arguments, strict=False):
        flag, given, value = text.partition("=")
        if text == "":
            raise RequestError(f"{before} is empty" if before.startswith("-") else "an argument is empty", remedy)
        if flag.startswith("--") and given and not value:
            raise RequestError(f"{flag} is empty", remedy)


def usage_error(error: Any) -> RequestError:
    """An error of the command-line parser as our own error: one line that names the flag, and a hint."""
    context: typer.Context | None = getattr(error, "ctx", None)
    name = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and isinstance(name, str):
        return _no_such_option(name, context)
    text = " ".join(str(error.format_message()).split()).rstrip(".")
    if type(error).__name__ == "BadParameter":
        text = _bad_value(error)
    elif extra := re.fullmatch(r"Got unexpected extra argument\S* \((.*)\)", text):
        text = f"unexpected argument {extra[1]!r}"
    return RequestError(text[:1].lower() + text[1:], _help_of(context))


def _no_such_option(name: str, context: typer.Context | None) -> RequestError:
    known = _flags(context)
    spelled = name.replace("_", "-")
    meant = next((f for f in FLAG_ALIASES.get(spelled, ()) if f in known), None)
    if meant is None:
        meant = spelled if spelled in known else nearest(spelled, known) if name.startswith("--") else None
    return RequestError(f"no such option {name}", f"did you mean {meant}?" if meant else _help_of(context))


def _flags(context: typer.Context | None) -> list[str]:
    if context is None:
        return []
    options = [opt for param in context.command.get_params(context) for opt in (*param.opts, *param.secondary_opts)]
    return [opt for opt in options if opt.startswith("--")]


def _bad_value(error: Any) -> str:
    """The parser's message for a wrong value, prefixed with the flag."""
    names = getattr(error.param, "opts", None) or []
    flag = max(names, key=len, default="")
    name = flag if flag.startswith("-") else flag.upper()
    reason = re.sub(r"^Input should be ", "must be ", " ".join(str(error.message).split())).rstrip(".")
    return f"{name}: {reason[:1].lower() + reason[1:]}" if name else reason


def _help_of(context: typer.Context | None) -> str | None:
    return f"see {context.command_path} --help" if context is not None else None
