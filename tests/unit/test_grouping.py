"""Patterns made from the names in each group."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftkit.api import layer_groups

PARTS = st.sampled_from(["a", "b", "conv", "norm_1", "0", "1", "10", "weight"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map(".".join)


def test_modules_that_are_whole_stand_for_what_is_in_them() -> None:
    stem, stage, head = layer_groups(
        {
            "stem": ["token", "conv.weight", "conv.act."],
            "stage": ["blocks.0.a.weight", "blocks.1.b.weight", "head.norm.weight"],
            "head": ["head.fc.weight", "head.drop."],
        }
    )
    assert stem.pattern == r"conv\.|token$"
    assert stage.pattern == r"blocks\.|head\.norm\."
    assert head.pattern == r"head\.drop\.|head\.fc\."


def test_numbers_are_joined() -> None:
    first, second = layer_groups({"a": ["f.0.w", "f.2.w"], "b": ["f.10.w", "f.1.w"]})
    assert first.pattern == r"f\.(0|2)\."
    assert second.pattern == r"f\.(1|10)\."


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault
@given(st.dictionaries(NAMES, st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=14))
def test_each_name_is_in_its_own_group_alone(drawn: dict[str, tuple[int, bool]]) -> None:
    # What has something below it is a module, and no name of a parameter or of a layer without others in it.
    leaves = {name: what for name, what in drawn.items() if not any(o.startswith(f"{name}.") for o in drawn)}
    owners = {f"{name}." if is_layer else name: place for name, (place, is_layer) in leaves.items()}
    groups = layer_groups({str(n): [name for name, place in owners.items() if place == n] for n in range(3)})
    for name, place in owners.items():
        assert [group.name for group in groups if group.owns(name)] == [str(place)]
