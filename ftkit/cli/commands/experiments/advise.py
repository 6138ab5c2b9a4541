"""`ftkit advise`: a recommended strategy, learning rate and number of epochs, with reasons."""

from __future__ import annotations

import json as jsonlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from ftkit.cli.options import Json, with_config
from ftkit.cli.output import console
from ftkit.cli.output.given_flags import given_flags, given_now
from ftkit.errors import RequestError, plural

if TYPE_CHECKING:
    from ftkit.config.load import Resolved
    from ftkit.experiments.recommend import Recommendation

app = typer.Typer()


@app.command(
    epilog="Examples:\n"
    "  ftkit advise --data photos\n"
    "  ftkit train --data photos --strategy auto   measure, and train as recommended"
)
@with_config
def advise(
    resolved: Resolved,
    json: Json = False,
) -> None:
    """Recommend strategy, learning rate and epochs for a dataset."""
    given = given_now(resolved)
    strategy = next((where for key, where in given.items() if key.partition(".")[0] == "strategy"), None)
    if strategy is not None:
        raise RequestError(f"{strategy}: ftkit advise chooses the strategy", "drop it; ftkit plan shows a strategy")
    from ftkit.experiments.recommend import recommend
    from ftkit.planning.backbone_choice import name_backbone

    named = name_backbone(resolved)
    recommendation = recommend(named, given, console.note)
    command = command_line(named, recommendation, given, tuple(_chosen(resolved, named, given)))
    if json:
        console.print_json(_to_json(recommendation, command))
    else:
        console.print_text("\n".join(_lines(recommendation, command)))


def command_line(
    resolved: Resolved, recommendation: Recommendation, given: Mapping[str, str], chosen: Sequence[str] = ()
) -> str:
    """The command that trains as recommended: the given flags with the recommended values.

    Args:
        chosen: Flags for what was chosen in place of `auto` before the measurement.
    """
    advice, advised = recommendation.advice, recommendation.resolved.config
    words = ["ftkit", "train", *given_flags(resolved, given), *chosen]
    words += ["--strategy", advice.strategy, *_options(resolved, recommendation, "strategy")]
    if advice.epochs and "epochs" not in given:
        words += ["--epochs", str(advised.epochs)]
    if advice.lr is not None and "optimizer.lr" not in given:
        words += ["--lr", f"{advised.optimizer.rate:g}"]
    if advice.epochs and not any(key.partition(".")[0] == "augment" for key in given):
        words += ["--augment", advised.augment.name, *_options(resolved, recommendation, "augment")]
    return shlex.join(words)


def _chosen(asked: Resolved, named: Resolved, given: Mapping[str, str]) -> Iterator[str]:
    """Flags for a backbone and an input size that were chosen, and that no repeated flag gives."""
    before, after = asked.config, named.config
    if before.backbone != after.backbone and not given.get("backbone", "").startswith("--"):
        yield from ("--backbone", after.backbone)
    if before.preprocessing.size != after.preprocessing.size:
        yield from ("--image-size", str(after.preprocessing.size))


def _options(resolved: Resolved, recommendation: Recommendation, section: str) -> Iterator[str]:
    """`--set` flags for recommended options that differ from those of the named part by itself."""
    from ftkit.config.load import with_choice

    before, after = getattr(resolved.config, section), getattr(recommendation.resolved.config, section)
    if before.name != after.name:
        before = getattr(with_choice(resolved, section, after.name, {}, {}).config, section)
    for name, value in after.options.items():
        if before.options.get(name) != value:
            yield from ("--set", f"{section}.{name}={jsonlib.dumps(value)}")


def _to_json(recommendation: Recommendation, command: str) -> dict[str, Any]:
    facts, config = recommendation.facts, recommendation.resolved.config
    derived = {"similarity": facts.similarity}
    named = {"dataset": config.dataset.name, "backbone": config.backbone, "weights": recommendation.weights}
    return {
        "facts": {**named, **asdict(facts), **derived},
        "advice": asdict(recommendation.advice),
        "notes": [*recommendation.resolved.notes, *recommendation.kept],
        "command": command,
    }


def _lines(recommendation: Recommendation, command: str) -> Iterator[str]:
    rows = [
        *_fact_rows(recommendation),
        ("advice", _advice_text(recommendation)),
        *(("because", reason) for reason in recommendation.advice.why),
    ]
    notes = (*recommendation.resolved.notes, *_weight_notes(recommendation), *recommendation.kept)
    rows += [("note", note) for note in notes]
    width, last = max(len(name) for name, _ in rows), ""
    for name, text in rows:
        yield f"{name if name != last else '':>{width}}  {text}"
        last = name
    yield from ("", command)


def _fact_rows(recommendation: Recommendation) -> Iterator[tuple[str, str]]:
    facts, config = recommendation.facts, recommendation.resolved.config
    images = f"{facts.images:,} training images, {facts.per_class:.3g} per class"
    yield "data", f"{config.dataset.name}: {plural(facts.classes, 'class')}, {images}"
    yield "backbone", f"{config.backbone}, weights {recommendation.weights}"
    yield "chance", f"{100 * facts.chance:.1f} %: {facts.metric} of the best predictions that ignore the images"
    if facts.probe is None or facts.nearest_mean is None:
        return
    measured = f"in cross-validation on {facts.measured_on:,} training images"
    yield "probe", f"{100 * facts.probe:.1f} %: {facts.metric} of logistic regression on frozen features, {measured}"
    yield (
        "nearest mean",
        f"{100 * facts.nearest_mean:.1f} %: {facts.metric} of predicting by the nearest mean feature of a class",
    )


def _advice_text(recommendation: Recommendation) -> str:
    advice = recommendation.advice
    options = "".join(f", {name} {value:g}" for name, value in advice.options.items())
    if not advice.epochs:
        return f"strategy {advice.strategy}{options}"
    rate = "" if advice.lr is None else f", learning rate {advice.lr:g}"
    return f"strategy {advice.strategy}{options}{rate}, {plural(advice.epochs, 'epoch')}, {advice.augment} augmentation"


def _weight_notes(recommendation: Recommendation) -> Iterator[str]:
    """How to get pretrained weights, if none are used."""
    if recommendation.facts.pretrained:
        return
    name = recommendation.resolved.config.backbone
    own = [weights.name for weights in recommendation.resolved.registry.backbones.get(name).weights]
    if own:
        yield f"{name} has pretrained weights: --weights default selects {own[0]}"
    else:
        yield f"{name} has no pretrained weights: give a file with --weights FILE, or see ftkit backbones list"
