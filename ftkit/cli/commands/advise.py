"""`ftkit advise`: which strategy, how fast and how long, and why."""

from __future__ import annotations

import json as jsonlib
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftkit.cli.flags import FLAGS
from ftkit.cli.options import with_config
from ftkit.cli.output import console
from ftkit.errors import RequestError, plural

if TYPE_CHECKING:
    from ftkit.config.load import Resolved
    from ftkit.experiments.recommend import Recommendation

app = typer.Typer()

GIVEN = ("--", "FTKIT_")
"""How the place of a setting begins that was given for this one command."""
PLACES = ("root", "path", "source")
"""Options of datasets that `--data` stands for."""


@app.command(
    epilog="Examples:\n"
    "  ftkit advise --data photos --backbone resnet18\n"
    "  ftkit train --data photos --backbone resnet18 --strategy auto   measure, and train as advised"
)
@with_config
def advise(
    resolved: Resolved,
    json: Annotated[bool, typer.Option("--json", help="Facts, advice and command as JSON on stdout.")] = False,
) -> None:
    """Recommend strategy, learning rate and epochs for a dataset."""
    given = {key: where for key, where in resolved.sources.items() if where.startswith(GIVEN)}
    strategy = next((where for key, where in given.items() if key.partition(".")[0] == "strategy"), None)
    if strategy is not None:
        raise RequestError(f"{strategy}: advise names the strategy", "leave it out; ftkit plan shows what one does")
    from ftkit.experiments.recommend import recommend

    recommendation = recommend(resolved, given, console.note)
    command = command_line(resolved, recommendation, given)
    if json:
        console.print_json(_everything(recommendation, command))
    else:
        console.print_text("\n".join(_lines(recommendation, command)))


def command_line(resolved: Resolved, recommendation: Recommendation, given: Mapping[str, str]) -> str:
    """The command that trains as advised: what was given, with the advice."""
    advice, advised = recommendation.advice, recommendation.resolved.config
    words = ["ftkit", "train", *_config_file(resolved), *_repeated(resolved, given)]
    words += ["--strategy", advice.strategy, *_options(resolved, recommendation, "strategy")]
    if advice.epochs and "epochs" not in given:
        words += ["--epochs", str(advised.epochs)]
    if advice.lr is not None and "optimizer.lr" not in given:
        words += ["--lr", f"{advised.optimizer.lr:g}"]
    if advice.epochs and not any(key.partition(".")[0] == "augment" for key in given):
        words += ["--augment", advised.augment.name, *_options(resolved, recommendation, "augment")]
    return shlex.join(words)


def _options(resolved: Resolved, recommendation: Recommendation, section: str) -> Iterator[str]:
    """The options of what is advised that its name alone, given beside the config file, would not bring."""
    from ftkit.config.load import with_choice

    before, after = getattr(resolved.config, section), getattr(recommendation.resolved.config, section)
    if before.name != after.name:
        before = getattr(with_choice(resolved, section, after.name, {}, {}).config, section)
    for name, value in after.options.items():
        if before.options.get(name) != value:
            yield from ("--set", f"{section}.{name}={jsonlib.dumps(value)}")


def _config_file(resolved: Resolved) -> tuple[str, ...]:
    """The config file, where it isn't the one that is found without being named."""
    from ftkit.config.load import DEFAULT_FILE

    files = {where.rpartition(":")[0] for where in resolved.sources.values() if not where.startswith(GIVEN)}
    return next((("--config", file) for file in files if file != str(DEFAULT_FILE)), ())


def _repeated(resolved: Resolved, given: Mapping[str, str]) -> Iterator[str]:
    """The flags that were given, once more. What the environment holds is still there then."""
    tree = resolved.config.model_dump(mode="json")
    flags = {flag.names[0]: flag for flag in FLAGS}
    for where in dict.fromkeys(given.values()):
        if where == "--data":
            yield from ("--data", _near(next(tree["dataset"][k] for k in PLACES if k in tree["dataset"])))
        elif where in flags:
            value = _at(tree, flags[where].key)
            if isinstance(value, bool):
                yield where if value else f"--no-{where.strip('-')}"
            else:
                yield from (where, ",".join(value) if isinstance(value, list) else _near(str(value)))
        elif where.startswith("--set "):
            key = where.removeprefix("--set ")
            yield from ("--set", f"{key}={_as_yaml(_at(tree, key))}")


def _at(tree: Any, key: str) -> Any:
    """The value of a dotted key, in whose last parts dots may belong to a name."""
    if key in tree:
        return tree[key]
    first, _, rest = key.partition(".")
    return _at(tree[first], rest)


def _as_yaml(value: object) -> str:
    import yaml

    if isinstance(value, str) and yaml.safe_load(value) == value:
        return value
    return jsonlib.dumps(value)


def _near(path: str) -> str:
    """A path below the working folder as it is called from there."""
    inside = Path(path).is_absolute() and Path(path).is_relative_to(Path.cwd())
    return os.path.relpath(path) if inside else path


def _everything(recommendation: Recommendation, command: str) -> dict[str, Any]:
    facts, config = recommendation.facts, recommendation.resolved.config
    derived = {"per_class": facts.per_class, "similarity": facts.similarity, "known_from": facts.known_from}
    named = {"dataset": config.dataset.name, "backbone": config.backbone, "weights": recommendation.weights}
    return {
        "facts": {**named, **asdict(facts), **derived},
        "advice": asdict(recommendation.advice),
        "notes": list(recommendation.kept),
        "command": command,
    }


def _lines(recommendation: Recommendation, command: str) -> Iterator[str]:
    rows = [
        *_fact_rows(recommendation),
        ("advice", _advised(recommendation)),
        *(("because", reason) for reason in recommendation.advice.why),
    ]
    rows += [("note", note) for note in (*_about_weights(recommendation), *recommendation.kept)]
    width, last = max(len(name) for name, _ in rows), ""
    for name, text in rows:
        yield f"{name if name != last else '':>{width}}  {text}"
        last = name
    yield from ("", command)


def _fact_rows(recommendation: Recommendation) -> Iterator[tuple[str, str]]:
    facts, config = recommendation.facts, recommendation.resolved.config
    images = f"{facts.images:,} training images, {facts.per_class:.3g} a class"
    yield "data", f"{config.dataset.name}: {plural(facts.classes, 'class')}, {images}"
    yield "backbone", f"{config.backbone}, weights {recommendation.weights}"
    yield "chance", f"{100 * facts.chance:.1f} %: always naming the largest class"
    if facts.probe is None or facts.nearest_mean is None:
        return
    measured = f"in cross-validation on {facts.measured_on:,} training images"
    yield "probe", f"{100 * facts.probe:.1f} %: logistic regression on frozen features, {measured}"
    yield "nearest mean", f"{100 * facts.nearest_mean:.1f} %: naming the class whose mean feature is nearest, likewise"


def _advised(recommendation: Recommendation) -> str:
    advice = recommendation.advice
    options = "".join(f", {name} {value:g}" for name, value in advice.options.items())
    if not advice.epochs:
        return f"strategy {advice.strategy}{options}"
    rate = "" if advice.lr is None else f", learning rate {advice.lr:g}"
    return f"strategy {advice.strategy}{options}{rate}, {plural(advice.epochs, 'epoch')}, {advice.augment} augmentation"


def _about_weights(recommendation: Recommendation) -> Iterator[str]:
    """How to get weights, where there are none."""
    if recommendation.facts.pretrained:
        return
    name = recommendation.resolved.config.backbone
    own = [weights.name for weights in recommendation.resolved.registry.backbones.get(name).weights]
    if own:
        yield f"{name} has weights of its own: --weights default, which are {own[0]}"
    else:
        yield f"{name} has no weights of its own: give a file with --weights FILE; ftkit backbones list shows who has"
