"""Which phases use the activation cache, by arithmetic alone."""

from __future__ import annotations

from typing import Any

import pytest

from ftkit.activation_cache.policy import CachePolicy, CutSize, Use
from ftkit.api import Phase

HEAD, DEEP, LOW = CutSize("pool", 9, 100), CutSize("layer3", 6, 1000), CutSize("layer1", 2, 5000)


def phases(*lengths: int) -> tuple[Phase, ...]:
    """Phases of so many epochs, one after the other; what trains in them doesn't matter here."""
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    return tuple(Phase(s, s + n, frozenset({str(s)})) for s, n in zip(starts, lengths, strict=True))


def decided(
    lengths: tuple[int, ...], cuts: list[CutSize | str], probe: CutSize | None = None, **facts: Any
) -> tuple[Use, ...]:
    policy = CachePolicy(phases(*lengths), ("body", "head"), 10, 2, **{"limit": 10**9, **facts})
    return policy.decide(cuts, probe)


def test_one_variant_is_computed_once_for_a_whole_phase() -> None:
    (use,) = decided((20,), [HEAD])
    assert (use.cut, use.variants, use.passes, use.nbytes) == (HEAD, (0,), 1, 100 * (10 + 2))


def test_the_probe_has_computed_the_first_variant() -> None:
    (use,) = decided((20,), [HEAD], augmentations=4, probe=HEAD)
    assert (use.variants, use.passes, use.nbytes) == ((0, 1, 2, 3), 3, 100 * 10 * 3)


def test_one_pass_fills_what_later_phases_need_nearer_to_the_input() -> None:
    uses = decided((2, 2, 2), [HEAD, DEEP, LOW], augmentations=2)
    assert [use.passes for use in uses] == [2, 0, 0]
    assert [use.nbytes for use in uses] == [c.nbytes * (2 * 10 + 2) for c in (HEAD, DEEP, LOW)]


def test_a_pass_serves_a_later_phase_though_what_is_behind_its_cut_was_trained() -> None:
    uses = decided((1, 1, 1, 1), [HEAD, DEEP, LOW, LOW], augmentations=2)
    assert [use.passes for use in uses] == [1, 1, 0, 0]


def test_a_pass_over_less_of_the_network_serves_no_deeper_cut() -> None:
    uses = decided((2, 2), [LOW, HEAD])
    assert [use.passes for use in uses] == [1, 1]


def test_where_each_epoch_has_its_own_variant_nothing_is_saved_and_nothing_cached() -> None:
    (use,) = decided((3,), [HEAD], augmentations=3)
    assert use.cut is None
    assert "one epoch only" in use.reason


def test_a_phase_that_saves_nothing_itself_is_cached_for_a_later_one() -> None:
    uses = decided((2, 2, 2), [HEAD, HEAD, HEAD], augmentations=4)
    assert [(use.cut, use.passes) for use in uses] == [(HEAD, 2), (None, 0), (HEAD, 0)]


def test_layers_trained_in_between_are_computed_again() -> None:
    for between in ("everything trains", LOW):
        uses = decided((4, 4, 4), [HEAD, between, HEAD])
        assert [use.cut for use in uses] == [HEAD, None if isinstance(between, str) else LOW, HEAD]
        assert [use.passes for use in uses if use.cut == HEAD] == [1, 1]
        assert [use.nbytes for use in uses if use.cut == HEAD] == [100 * 12, 100 * 12]
    kept = decided((4, 4, 4), [DEEP, HEAD, DEEP])
    assert [use.passes for use in kept] == [1, 1, 0], "the head alone is behind both cuts"


def test_a_phase_that_saves_nothing_is_not_cached_for_one_after_a_training() -> None:
    uses = decided((2, 2, 6), [HEAD, "everything trains", HEAD], augmentations=4)
    assert [(use.cut, use.passes) for use in uses] == [(None, 0), (None, 0), (HEAD, 4)]


def test_the_limit_is_for_all_together_and_the_smaller_are_first() -> None:
    uses = decided((4, 4, 4), [HEAD, LOW, DEEP], limit=100 * 12 + 1000 * 12)
    assert [use.cut for use in uses] == [HEAD, None, DEEP]
    assert "limit" in uses[1].reason


def test_a_missing_cut_is_the_reason() -> None:
    assert decided((1, 4), ["everything trains", HEAD])[0] == Use(reason="everything trains")


@pytest.mark.parametrize(
    ("augmentations", "resampled", "expected"), [(1, False, (0,)), (3, False, (0, 2)), (3, True, (0, 1, 2))]
)
def test_variants_rotate_by_epoch_except_with_resampled_images(
    augmentations: int, resampled: bool, expected: tuple[int, ...]
) -> None:
    phase = Phase(2, 4, frozenset())
    policy = CachePolicy((phase,), ("head",), 10, 2, 10**9, augmentations=augmentations, resampled=resampled)
    assert policy.variants_of(phase) == expected


def test_batch_transforms_leave_the_probe_cached_and_the_phases_uncached() -> None:
    policy = CachePolicy(phases(4), ("body", "head"), 10, 2, 10**9, batch_transforms=("mixup",), probe=True)
    (use,) = policy.decide([HEAD], HEAD)
    assert (use.cut, use.reason) == (None, "mixup mixes whole images")
    assert policy.needs_cuts
    assert not CachePolicy(phases(4), ("body", "head"), 10, 2, 10**9, batch_transforms=("mixup",)).needs_cuts
    assert "mixup mixes" in policy.reason_without_effect()
