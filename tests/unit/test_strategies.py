"""Each built-in strategy's table in full, its options, and the parameters that its groups own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import pytest

from ftkit.api import (
    Backbone,
    GroupSize,
    LayerGroup,
    Preprocessing,
    RequestError,
    Role,
    Strategy,
    Summary,
    Then,
    group_of,
    make_schedule,
)
from ftkit.builtin.strategies.selective import Bias, Freezer, Norms
from ftkit.builtin.strategies.unfreezing import (
    ALIASES,
    STRATEGIES,
    Auto,
    Discriminative,
    Freeze,
    FreezeUnfreeze,
    Full,
    Gradual,
    Milestones,
    Probe,
    ProbeThenFinetune,
    Scratch,
    ftkit_strategies,
)

if TYPE_CHECKING:
    from torch import nn

GROUPS = ("stem", "layer1", "layer2", "layer3", "head")

PARAMETERS: Mapping[str, Role] = {
    "conv1.weight": "weight",
    "bn1.weight": "norm-weight",
    "bn1.bias": "norm-bias",
    "layer1.0.conv1.weight": "weight",
    "layer1.0.conv1.bias": "bias",
    "layer1.0.bn1.weight": "norm-weight",
    "layer1.0.bn1.bias": "norm-bias",
    "layer10.weight": "weight",
    "layer2.0.conv1.weight": "weight",
    "layer3.0.bn1.bias": "norm-bias",
    "fc.norm.weight": "norm-weight",
    "fc.weight": "weight",
    "fc.bias": "bias",
}


def unbuilt(num_classes: int) -> nn.Module:
    raise AssertionError("a schedule must not need the model")


def backbone(summary: Summary | None = None) -> Backbone:
    return Backbone(
        name="toy",
        groups=(
            LayerGroup("stem", r"conv1\.|bn1\."),
            LayerGroup("layer1", r"layer10?\."),
            LayerGroup("layer2", r"layer2\."),
            LayerGroup("layer3", r"layer3\."),
            LayerGroup("head", r"fc\.|classifier\."),
        ),
        head=("fc",),
        build=unbuilt,
        preprocessing=Preprocessing(),
        summary=summary,
    )


def table(strategy: Strategy, epochs: int) -> list[list[float | None]]:
    """One row an epoch, one column a group from the stem to the head; None is frozen."""
    schedule = make_schedule(strategy, backbone(), epochs)
    assert tuple(group.name for group in schedule.groups) == GROUPS
    return [[row.get(name) for name in GROUPS] for row in schedule.rows]


def owned(strategy: Strategy) -> dict[str, list[str]]:
    """Parameter names by layer group."""
    groups = strategy.groups(backbone())
    owners = {name: group_of(groups, name, role) for name, role in PARAMETERS.items()}
    assert None not in owners.values()
    return {g.name: [name for name, owner in owners.items() if owner is g] for g in groups}


off = None


def test_full_trains_everything_from_the_start() -> None:
    assert table(Full(), 2) == [[0.1, 0.1, 0.1, 0.1, 1.0]] * 2
    assert table(Full(backbone_lr_scale=0.25), 1) == [[0.25, 0.25, 0.25, 0.25, 1.0]]


def test_freeze_trains_the_head_alone() -> None:
    assert table(Freeze(), 3) == [[off, off, off, off, 1.0]] * 3


def test_freeze_unfreeze_thaws_everything_at_its_epoch() -> None:
    assert table(FreezeUnfreeze(), 7) == [[off, off, off, off, 1.0]] * 5 + [[0.1, 0.1, 0.1, 0.1, 1.0]] * 2
    assert table(FreezeUnfreeze(unfreeze_epoch=1, backbone_lr_scale=0.5), 2) == [
        [off, off, off, off, 1.0],
        [0.5, 0.5, 0.5, 0.5, 1.0],
    ]


def test_milestones_thaw_the_last_groups_and_then_the_rest() -> None:
    assert table(Milestones(), 10) == (
        [[off, off, off, off, 1.0]] * 3 + [[off, off, 0.1, 0.1, 1.0]] * 5 + [[0.1, 0.1, 0.1, 0.1, 1.0]] * 2
    )
    assert table(Milestones(milestones=(1, 2), num_layers=3, backbone_lr_scale=0.2), 3) == [
        [off, off, off, off, 1.0],
        [off, 0.2, 0.2, 0.2, 1.0],
        [0.2, 0.2, 0.2, 0.2, 1.0],
    ]


def test_gradual_gives_each_group_its_part_of_the_run() -> None:
    assert table(Gradual(), 10) == [
        [off, off, off, off, 1.0],
        [off, off, off, off, 1.0],
        [off, off, off, 0.5, 1.0],
        [off, off, off, 0.5, 1.0],
        [off, off, 0.25, 0.5, 1.0],
        [off, off, 0.25, 0.5, 1.0],
        [off, 0.125, 0.25, 0.5, 1.0],
        [off, 0.125, 0.25, 0.5, 1.0],
        [0.0625, 0.125, 0.25, 0.5, 1.0],
        [0.0625, 0.125, 0.25, 0.5, 1.0],
    ]


def test_gradual_with_every_thaws_one_group_at_each_multiple() -> None:
    assert table(Gradual(every=1, decay=1.0), 6) == [
        [off, off, off, off, 1.0],
        [off, off, off, 1.0, 1.0],
        [off, off, 1.0, 1.0, 1.0],
        [off, 1.0, 1.0, 1.0, 1.0],
        [1.0, 1.0, 1.0, 1.0, 1.0],
        [1.0, 1.0, 1.0, 1.0, 1.0],
    ]
    assert table(Gradual(every=2), 3) == [
        [off, off, off, off, 1.0],
        [off, off, off, off, 1.0],
        [off, off, off, 0.5, 1.0],
    ]


def test_gradual_thaws_several_groups_at_once_in_a_short_run() -> None:
    assert table(Gradual(), 3) == [
        [off, off, off, off, 1.0],
        [off, off, 0.25, 0.5, 1.0],
        [0.0625, 0.125, 0.25, 0.5, 1.0],
    ]
    assert table(Gradual(), 2) == [[off, off, off, 0.5, 1.0], [0.0625, 0.125, 0.25, 0.5, 1.0]]
    assert table(Gradual(), 1) == [[0.0625, 0.125, 0.25, 0.5, 1.0]]


@pytest.mark.parametrize("epochs", range(1, 30))
def test_gradual_trains_every_group_before_the_run_ends(epochs: int) -> None:
    trained = [set(row) for row in make_schedule(Gradual(), backbone(), epochs).rows]
    assert trained[-1] == set(GROUPS)
    assert all(before <= after for before, after in pairwise(trained))


def test_discriminative_falls_from_the_head_to_the_input() -> None:
    assert table(Discriminative(decay=0.5), 2) == [[0.0625, 0.125, 0.25, 0.5, 1.0]] * 2
    assert table(Discriminative(), 1)[0] == pytest.approx([0.021970, 0.057067, 0.148225, 0.385, 1.0], rel=1e-4)


def test_scratch_trains_everything_at_the_full_rate_from_random_weights() -> None:
    assert table(Scratch(), 2) == [[1.0, 1.0, 1.0, 1.0, 1.0]] * 2
    assert Scratch().default_weights == "none"
    assert {s.default_weights for n, s in STRATEGIES.items() if n not in ("scratch", "then")} == {"default"}


def test_freezer_holds_the_named_parameters_until_its_epoch() -> None:
    schedule = make_schedule(Freezer(("conv1.", "layer1."), until_epoch=2), backbone(), 3)
    assert [dict(row) for row in schedule.rows] == [
        {"rest": 1.0, "head": 1.0},
        {"rest": 1.0, "head": 1.0},
        {"conv1.": 1.0, "layer1.": 1.0, "rest": 1.0, "head": 1.0},
    ]


def test_freezer_with_null_never_thaws() -> None:
    schedule = make_schedule(Freezer(("layer",), until_epoch=None), backbone(), 2)
    assert [dict(row) for row in schedule.rows] == [{"rest": 1.0, "head": 1.0}] * 2


def test_freezer_groups_own_what_their_prefix_names_less_the_exceptions() -> None:
    assert owned(Freezer(("conv1", "layer1."), except_=("layer1.0.bn1",))) == {
        "conv1": ["conv1.weight"],
        "layer1.": ["layer1.0.conv1.weight", "layer1.0.conv1.bias"],
        "rest": [
            "bn1.weight",
            "bn1.bias",
            "layer1.0.bn1.weight",
            "layer1.0.bn1.bias",
            "layer10.weight",
            "layer2.0.conv1.weight",
            "layer3.0.bn1.bias",
        ],
        "head": ["fc.norm.weight", "fc.weight", "fc.bias"],
    }


def test_freezer_keeps_a_frozen_name_out_of_the_head() -> None:
    assert owned(Freezer(("fc.norm",)))["fc.norm"] == ["fc.norm.weight"]
    assert owned(Freezer(("fc.norm",)))["head"] == ["fc.weight", "fc.bias"]
    assert owned(Freezer(("fc",), except_=("fc.norm",)))["head"] == ["fc.norm.weight"]


def test_freezer_takes_a_prefix_literally() -> None:
    assert owned(Freezer(("layer1.", "fc+")))["layer1."] == [n for n in PARAMETERS if n.startswith("layer1.")]
    assert owned(Freezer(("fc+",)))["fc+"] == []


def test_the_longer_freezer_prefix_takes_its_share_when_it_comes_later() -> None:
    groups = owned(Freezer(("layer1", "layer1.0.conv1")))
    assert groups["layer1"] == ["layer1.0.bn1.weight", "layer1.0.bn1.bias", "layer10.weight"]
    assert groups["layer1.0.conv1"] == ["layer1.0.conv1.weight", "layer1.0.conv1.bias"]


@dataclass
class NamedParameters:
    """Stands for a network, whose parameter names a strategy may read."""

    names: Iterable[str]

    def named_parameters(self) -> list[tuple[str, None]]:
        return [(name, None) for name in self.names]


def network() -> nn.Module:
    return cast("nn.Module", NamedParameters(PARAMETERS))


def test_a_freezer_prefix_that_no_parameter_has_is_refused_with_the_nearest() -> None:
    model = network()
    assert Freezer(("layer1.",), except_=("layer1.0.bn",)).adapt(model, backbone()) is model
    with pytest.raises(RequestError, match=r"name_starts_with: no parameter's name starts with 'layr2'") as failure:
        Freezer(("layr2",)).adapt(model, backbone())
    assert failure.value.hint == "did you mean 'layer2'?"
    with pytest.raises(RequestError, match=r"strategy\.except_: no parameter's name starts with 'zzz'") as failure:
        Freezer(("layer1",), except_=("zzz",)).adapt(model, backbone())
    assert failure.value.hint == "names start with conv1, bn1, layer1, layer10, layer2, layer3, fc"


def test_norms_trains_the_normalisation_layers_and_the_head() -> None:
    assert owned(Norms()) == {
        "body": [
            "conv1.weight",
            "layer1.0.conv1.weight",
            "layer1.0.conv1.bias",
            "layer10.weight",
            "layer2.0.conv1.weight",
        ],
        "norms": ["bn1.weight", "bn1.bias", "layer1.0.bn1.weight", "layer1.0.bn1.bias", "layer3.0.bn1.bias"],
        "head": ["fc.norm.weight", "fc.weight", "fc.bias"],
    }
    assert make_schedule(Norms(), backbone(), 2).rows == ({"norms": 1.0, "head": 1.0},) * 2


def test_bias_trains_every_bias_and_the_head() -> None:
    assert owned(Bias()) == {
        "body": [
            "conv1.weight",
            "bn1.weight",
            "layer1.0.conv1.weight",
            "layer1.0.bn1.weight",
            "layer10.weight",
            "layer2.0.conv1.weight",
        ],
        "biases": ["bn1.bias", "layer1.0.conv1.bias", "layer1.0.bn1.bias", "layer3.0.bn1.bias"],
        "head": ["fc.norm.weight", "fc.weight", "fc.bias"],
    }
    assert make_schedule(Bias(), backbone(), 2).rows == ({"biases": 1.0, "head": 1.0},) * 2


def test_norms_refuses_a_backbone_without_any() -> None:
    plain = Summary({"stem": GroupSize({"weight": 9, "bias": 3}), "head": GroupSize({"norm-weight": 4})}, (4,))
    with pytest.raises(RequestError, match="backbone 'toy' has no normalisation parameters below its head"):
        make_schedule(Norms(), backbone(plain), 1)
    assert make_schedule(Bias(), backbone(plain), 1).rows == ({"biases": 1.0, "head": 1.0},)


def test_then_gives_each_strategy_its_own_epochs() -> None:
    assert table(Then(Freeze(), Gradual(), at=2), 5) == [
        [off, off, off, off, 1.0],
        [off, off, off, off, 1.0],
        [off, off, off, off, 1.0],
        [off, off, 0.25, 0.5, 1.0],
        [0.0625, 0.125, 0.25, 0.5, 1.0],
    ]


def test_then_nests() -> None:
    strategy = Then(Freeze(), Then(Full(), Scratch(), at=1), at=1)
    assert table(strategy, 3) == [[off, off, off, off, 1.0], [0.1, 0.1, 0.1, 0.1, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]]


def test_then_starts_from_the_first_strategys_weights() -> None:
    assert Then(Scratch(), Full(), at=1).default_weights == "none"
    assert Then(Full(), Scratch(), at=1).default_weights == "default"


def test_then_names_the_part_that_refuses_its_length() -> None:
    with pytest.raises(RequestError) as failure:
        table(Then(FreezeUnfreeze(), Full(), at=3), 9)
    assert failure.value.message == (
        "strategy.first, taken as a run of 3 epochs: strategy.unfreeze_epoch is 5, but the run has 3 epochs"
    )


def test_then_refuses_a_change_after_the_end_and_groups_that_differ() -> None:
    with pytest.raises(RequestError, match=r"strategy\.at is 4, but the run has 4 epochs"):
        table(Then(Freeze(), Full(), at=4), 4)
    with pytest.raises(RequestError, match="joins two strategies with different layer groups"):
        table(Then(Freeze(), Norms(), at=1), 4)


class Recorder(Full):
    def __init__(self, name: str, calls: list[str]) -> None:
        super().__init__()
        object.__setattr__(self, "note", lambda: calls.append(name))

    note: Callable[[], None]

    def adapt(self, model: nn.Module, backbone: Backbone) -> nn.Module:
        self.note()
        return model


def test_then_adapts_the_network_for_both() -> None:
    calls: list[str] = []
    model = network()
    assert Then(Recorder("first", calls), Recorder("second", calls), at=1).adapt(model, backbone()) is model
    assert calls == ["first", "second"]


EACH = [
    Full(),
    Freeze(),
    FreezeUnfreeze(),
    Milestones(),
    Gradual(),
    Discriminative(),
    Freezer(("layer1",)),
    Norms(),
    Bias(),
    ProbeThenFinetune(),
    Scratch(),
    Then(Freeze(), Full(), at=4),
]


@pytest.mark.parametrize("strategy", EACH, ids=lambda s: type(s).__name__)
def test_rows_depend_on_nothing_but_the_epoch(strategy: Strategy) -> None:
    names = tuple(group.name for group in strategy.groups(backbone()))
    forward = [dict(strategy.lr_scales(epoch, 10, names)) for epoch in range(10)]
    backward = [dict(strategy.lr_scales(epoch, 10, names)) for epoch in reversed(range(10))]
    assert backward[::-1] == forward
    assert [dict(strategy.lr_scales(7, 10, names)) for _ in range(2)] == [forward[7]] * 2


def test_each_with_a_schedule_is_covered() -> None:
    assert {type(strategy) for strategy in EACH} == set(STRATEGIES.values()) - {Probe, Auto}


@pytest.mark.parametrize("strategy", [Probe(), Auto()])
def test_what_trains_no_epochs_of_its_own_is_reported(strategy: Strategy) -> None:
    with pytest.raises(RequestError, match=r"trains no epochs|no schedule of its own"):
        strategy.lr_scales(0, 10, ("stem", "head"))


def test_the_probe_comes_first_where_a_strategy_asks_for_it() -> None:
    assert (Probe.probe, ProbeThenFinetune.probe, Full.probe) == ("only", "first", "usual")
    assert ProbeThenFinetune().lr_scales(0, 3, ("stem", "head")) == Full().lr_scales(0, 3, ("stem", "head"))


REFUSED: list[tuple[Callable[[], Strategy], str]] = [
    (lambda: Full(backbone_lr_scale=0.0), "strategy.backbone_lr_scale is 0.0"),
    (lambda: Full(backbone_lr_scale=float("nan")), "strategy.backbone_lr_scale is nan"),
    (lambda: FreezeUnfreeze(unfreeze_epoch=0), "strategy.unfreeze_epoch is 0"),
    (lambda: FreezeUnfreeze(backbone_lr_scale=-1.0), "strategy.backbone_lr_scale is -1.0"),
    (lambda: Milestones(milestones=(8, 3)), "strategy.milestones is [8, 3]"),
    (lambda: Milestones(milestones=(0, 3)), "strategy.milestones is [0, 3]"),
    (lambda: Milestones(num_layers=0), "strategy.num_layers is 0"),
    (lambda: Gradual(every=0), "strategy.every is 0"),
    (lambda: Gradual(decay=0.0), "strategy.decay is 0.0"),
    (lambda: Gradual(decay=1.5), "strategy.decay is 1.5"),
    (lambda: Discriminative(decay=float("nan")), "strategy.decay is nan"),
    (lambda: Freezer(()), "strategy.name_starts_with is empty"),
    (lambda: Freezer(("",)), "strategy.name_starts_with has an empty name, which every parameter starts with"),
    (lambda: Freezer(("a", "a")), "strategy.name_starts_with has a name twice: a, a"),
    (lambda: Freezer(("a",), except_=("",)), "strategy.except_ has an empty name, which every parameter starts with"),
    (lambda: Freezer(("a",), until_epoch=0), "strategy.until_epoch is 0"),
    (lambda: Then(Freeze(), Full(), at=0), "strategy.at is 0"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for off, message in REFUSED])
def test_a_bad_option_is_named(make: Callable[[], Strategy], message: str) -> None:
    with pytest.raises(RequestError) as failure:
        make()
    assert failure.value.message == message
    assert failure.value.hint


TOO_SHORT = [
    (FreezeUnfreeze(), 5, "strategy.unfreeze_epoch is 5, but the run has 5 epochs", "lower it or raise epochs"),
    (FreezeUnfreeze(), 1, "strategy.unfreeze_epoch is 5, but the run has 1 epoch", "lower it or raise epochs"),
    (Milestones(), 8, "strategy.milestones is [3, 8], but the run has 8 epochs", "lower it or raise epochs"),
    (Gradual(every=4), 4, "strategy.every is 4, but the run has 4 epochs", "lower it or raise epochs"),
    (
        Freezer(("layer1",)),
        3,
        "strategy.until_epoch is 5, but the run has 3 epochs",
        "lower it, raise epochs, or give null for never",
    ),
]


@pytest.mark.parametrize(("strategy", "epochs", "message", "hint"), TOO_SHORT)
def test_an_option_that_the_run_never_reaches_is_refused(
    strategy: Strategy, epochs: int, message: str, hint: str
) -> None:
    with pytest.raises(RequestError) as failure:
        make_schedule(strategy, backbone(), epochs)
    assert (failure.value.message, failure.value.hint) == (message, hint)


def test_milestones_refuses_to_leave_the_second_one_idle() -> None:
    with pytest.raises(RequestError, match=r"num_layers is 4, but backbone 'toy' has 4 layer groups") as failure:
        table(Milestones(num_layers=4), 10)
    assert failure.value.hint == "give 3 or less"


def test_names_of_the_literature_mean_the_same_strategies() -> None:
    strategies = ftkit_strategies()
    assert {name: cls.__name__ for name, cls in strategies.items()} == {
        "full": "Full",
        "no-freeze": "Full",
        "no_freeze": "Full",
        "freeze": "Freeze",
        "feature-extraction": "Freeze",
        "feature_extraction": "Freeze",
        "linear-probe": "Freeze",
        "linear_probe": "Freeze",
        "freeze-unfreeze": "FreezeUnfreeze",
        "freeze_unfreeze": "FreezeUnfreeze",
        "milestones": "Milestones",
        "unfreeze-milestones": "Milestones",
        "unfreeze_milestones": "Milestones",
        "gradual": "Gradual",
        "discriminative": "Discriminative",
        "freezer": "Freezer",
        "norms": "Norms",
        "bias": "Bias",
        "probe": "Probe",
        "probe-then-finetune": "ProbeThenFinetune",
        "probe_then_finetune": "ProbeThenFinetune",
        "scratch": "Scratch",
        "then": "Then",
        "auto": "Auto",
    }
    assert set(ALIASES) == set(strategies) - set(STRATEGIES)
