"""A schedule refuses rows that can't be trained by, and cuts a run into phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import ftkit
from ftkit.api import Backbone, LayerGroup, Phase, Preprocessing, RequestError, Strategy, make_schedule
from tests.conftest import MakeFolder, RunFtkit

if TYPE_CHECKING:
    from torch import nn


def unbuilt(num_classes: int) -> nn.Module:
    raise AssertionError("a schedule must not need the model")


TOY = Backbone(
    name="toy",
    groups=(LayerGroup("stem", "stem"), LayerGroup("body", "body"), LayerGroup("head", "head")),
    head=("head",),
    build=unbuilt,
    preprocessing=Preprocessing(),
)


@dataclass(frozen=True)
class Rows(Strategy):
    """Gives out the rows that a test wrote down, fit or not."""

    rows: Sequence[Any]

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        row: Mapping[str, float] = self.rows[epoch]
        return row


@dataclass(frozen=True)
class Twice(Rows):
    def groups(self, backbone: Backbone) -> tuple[LayerGroup, ...]:
        return (*backbone.groups, backbone.groups[0])


def test_rows_are_kept_in_the_order_of_the_groups() -> None:
    schedule = make_schedule(Rows([{"head": 1, "stem": 0.5}]), TOY, 1)
    assert list(schedule.rows[0].items()) == [("stem", 0.5), ("head", 1.0)]
    assert schedule.groups == TOY.groups


def test_no_epochs_give_no_rows() -> None:
    schedule = make_schedule(Rows([]), TOY, 0)
    assert (schedule.rows, schedule.phases) == ((), ())


def test_phases_change_where_the_trainable_groups_do_and_not_where_rates_do() -> None:
    rows = [{"head": 1.0}, {"head": 0.5}, {"body": 0.1, "head": 1.0}, {"body": 0.2, "head": 1.0}, {"head": 1.0}]
    schedule = make_schedule(Rows(rows), TOY, 5)
    assert schedule.phases == (
        Phase(0, 2, frozenset({"head"})),
        Phase(2, 4, frozenset({"body", "head"})),
        Phase(4, 5, frozenset({"head"})),
    )
    assert [schedule.phase_at(epoch).start for epoch in range(5)] == [0, 0, 2, 2, 4]
    with pytest.raises(IndexError, match="epoch 5 of a schedule of 5"):
        schedule.phase_at(5)


BAD = [
    ({"hed": 1.0}, "strategy 'odd', epoch 1: unknown layer group 'hed'", "did you mean 'head'?"),
    ({"head": float("nan")}, "strategy 'odd', epoch 1: the LR scale of 'head' is nan", "return numbers of 0 or more"),
    ({"head": float("inf")}, "strategy 'odd', epoch 1: the LR scale of 'head' is inf", "return numbers of 0 or more"),
    ({"head": -0.1}, "strategy 'odd', epoch 1: the LR scale of 'head' is -0.1", "return numbers of 0 or more"),
    ({"head": "1"}, "strategy 'odd', epoch 1: the LR scale of 'head' is '1'", "return numbers of 0 or more"),
    ({"head": None}, "strategy 'odd', epoch 1: the LR scale of 'head' is None", "return numbers of 0 or more"),
    ({"head": True}, "strategy 'odd', epoch 1: the LR scale of 'head' is True", "return numbers of 0 or more"),
    ({}, "strategy 'odd', epoch 1: no layer group trains", "return a scale above 0 for one group at least"),
    ({"head": 0.0}, "strategy 'odd', epoch 1: no layer group trains", "return a scale above 0 for one group at least"),
    (None, "strategy 'odd', epoch 1: lr_scales returned None", "return a mapping of layer group to LR scale"),
]


@pytest.mark.parametrize(("row", "message", "hint"), BAD)
def test_a_row_that_cannot_be_trained_by_is_refused(row: object, message: str, hint: str) -> None:
    with pytest.raises(RequestError) as failure:
        make_schedule(Rows([{"head": 1.0}, row]), TOY, 2, name="odd")
    assert (failure.value.message, failure.value.hint) == (message, hint)


def test_a_group_at_scale_0_is_frozen() -> None:
    schedule = make_schedule(Rows([{"body": 0.0, "head": 1.0}, {"body": 0.5, "head": 1.0}]), TOY, 2)
    assert schedule.rows == ({"head": 1.0}, {"body": 0.5, "head": 1.0})
    assert [sorted(phase.trainable) for phase in schedule.phases] == [["head"], ["body", "head"]]


def test_two_groups_of_one_name_are_refused() -> None:
    with pytest.raises(RequestError, match=r"two layer groups of one name: stem, body, head, stem"):
        make_schedule(Twice([{"head": 1.0}]), TOY, 1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> dict[str, Any]:
    root = image_folder(tmp_path_factory.mktemp("photos"), {"a": 6, "b": 6})
    return {"dataset": {"name": "folder", "root": str(root)}, "backbone": "cifar_resnet20", "epochs": 4}


FROZEN = "weights are none, and strategy '{}' keeps {} frozen {}: layers drawn at random"
BODY = "stem, layer1, layer2, layer3"


@pytest.mark.parametrize(
    ("strategy", "kept"),
    [
        ("freeze", (BODY, "to the end")),
        ("gradual", (BODY, "for 3 epochs")),
        ({"name": "freeze-unfreeze", "unfreeze_epoch": 1}, (BODY, "for 1 epoch")),
        ({"name": "freezer", "name_starts_with": ["layer1"], "until_epoch": None}, ("layer1", "to the end")),
        ("norms", ("body", "to the end")),
        ("full", None),
        ("scratch", None),
        ("discriminative", None),
    ],
)
def test_frozen_layers_drawn_at_random_are_noted(
    photos: dict[str, Any], strategy: Any, kept: tuple[str, str] | None
) -> None:
    notes = ftkit.plan(**photos, strategy=strategy, weights="none").notes
    found = [note for note in notes if note.startswith("weights are none")]
    if kept is None:
        assert not found
    else:
        name = strategy["name"] if isinstance(strategy, dict) else strategy
        assert len(found) == 1
        assert found[0].startswith(FROZEN.format(name, *kept))


def test_the_command_line_shows_it(photos: dict[str, Any], run_ftkit: RunFtkit) -> None:
    options = ("--data", photos["dataset"]["root"], "--backbone", "cifar_resnet20", "--weights", "none")
    shown = run_ftkit("plan", *options, "--strategy", "freeze", "--epochs", "2").stdout
    assert FROZEN.format("freeze", BODY, "to the end") in " ".join(shown.split())
