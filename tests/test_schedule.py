"""The schedule beside a table, torch's schedulers, and its bounds."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from simclr_lib.schedule import warmup_cosine


def test_four_warm_up_steps_of_ten_equal_the_table():
    root = math.sqrt(3) / 4  # cosines of multiples of 30 degrees
    expected = [0.25, 0.5, 0.75, 1, 1, 0.5 + root, 0.75, 0.5, 0.25, 0.5 - root, 0]
    assert [warmup_cosine(step, 10, 4) for step in range(11)] == pytest.approx(expected, abs=1e-15)


def test_without_warm_up_it_falls_from_one_through_a_half_to_zero():
    assert [warmup_cosine(step, 8) for step in (0, 4, 8)] == pytest.approx([1, 0.5, 0], abs=1e-15)


def test_a_single_step_runs_at_the_full_rate():
    assert warmup_cosine(0, 1) == 1


def test_one_warm_up_step_is_the_full_rate_already():
    assert [warmup_cosine(step, 3, 1) for step in range(4)] == pytest.approx([1, 1, 0.5, 0], abs=1e-15)


@pytest.mark.parametrize(("total", "warmup"), [(50, 5), (37, 2), (12, 11), (9, 4), (20, 0)])
def test_every_step_equals_torchs_linear_then_cosine_schedulers(total, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    theirs = CosineAnnealingLR(optimizer, T_max=total - warmup)
    if warmup:
        rise = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
        theirs = SequentialLR(optimizer, [rise, theirs], milestones=[warmup])
    for step in range(total):
        assert 0.3 * warmup_cosine(step, total, warmup) == pytest.approx(theirs.get_last_lr()[0], rel=1e-10), step
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (2, 1), (100, 10), (313, 7)])
def test_the_factor_stays_in_0_to_1_and_peaks_where_the_warm_up_ends(total, warmup):
    factors = [warmup_cosine(step, total, warmup) for step in range(total + 1)]
    assert min(factors) >= 0
    assert max(factors) == factors[warmup] == 1
    assert factors == sorted(factors[:warmup]) + sorted(factors[warmup:], reverse=True)
    assert factors[-1] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("warmup", [-1, 10, 11, math.nan])
def test_a_warm_up_that_leaves_no_step_is_refused(warmup):
    with pytest.raises(ValueError, match=r"warmup_steps: .*10"):
        warmup_cosine(0, 10, warmup)


def test_no_steps_at_all_are_refused():
    with pytest.raises(ValueError, match=r"warmup_steps: .*0 in all"):
        warmup_cosine(0, 0)


@pytest.mark.parametrize("step", [-1, 11, math.nan])
def test_a_step_outside_the_training_is_refused(step):
    with pytest.raises(ValueError, match=r"^step: .*0 to 10, got"):
        warmup_cosine(step, 10)
