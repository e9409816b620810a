"""The functions of distribution matching: what they promise beyond the reference's numbers, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from studio.train.dmd import ScoreSchedules, critic_loss, dmd_gradient, dmd_loss, draw_timestep, guided, shift_timestep

SHAPE = (2, 6, 4, 4, 6)


def random(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_a_critic_that_agrees_with_the_teacher_asks_for_nothing():
    assert not dmd_gradient(random(0), random(1), random(1)).gradient.any()


def test_a_clip_that_is_the_teachers_own_gives_no_infinite_gradient():
    x = random(0)
    found = dmd_gradient(x, x, x)
    assert torch.isfinite(found.gradient).all() and not found.gradient.any()


def test_the_gradient_of_one_clip_does_not_depend_on_its_neighbour():
    x, fake, real = random(0), random(1), random(2)
    alone = dmd_gradient(x[:1], fake[:1], real[:1]).gradient
    assert torch.equal(dmd_gradient(x, fake, real).gradient[:1], alone)


def test_the_gradient_carries_no_graph():
    x = random(0).requires_grad_(True)
    assert not dmd_gradient(x, x * 2, x * 3).gradient.requires_grad


def test_a_masked_loss_touches_counted_frames_only():
    x, mask = random(0).requires_grad_(True), torch.zeros(1, 6, 1, 1, 1, dtype=torch.bool)
    mask[:, 3:] = True
    dmd_loss(x, random(1), mask).backward()
    assert not x.grad[:, :3].any() and x.grad[:, 3:].all()
    torch.testing.assert_close(x.grad[:, 3:], random(1)[:, 3:] / x[:, 3:].numel())


def test_one_table_for_both_gives_the_plain_flow_error():
    flow, x, noise = random(0), random(1), random(2)
    schedules = ScoreSchedules(noise_shift=3.0, score_shift=3.0)
    assert schedules.score is schedules.noising
    timestep = torch.full(SHAPE[:2], 500.0)
    noisy = schedules.noising.add_noise(x, noise, timestep)
    loss = critic_loss(flow, x, noise, noisy, timestep, schedules)
    assert torch.equal(loss, (flow - (noise - x)).square().mean())


def test_guidance_of_zero_is_the_prompted_prediction():
    assert torch.equal(guided(random(0), random(1), 0.0), random(0))


def test_timesteps_are_one_a_clip_in_range_and_repeatable():
    draws = [draw_timestep(64, 6, shift=5.0, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert draws[0].shape == (64, 6) and (draws[0] == draws[0][:, :1]).all()
    assert draws[0].min() >= 20 and draws[0].max() <= 980 and len(draws[0][:, 0].unique()) > 20


@pytest.mark.parametrize(("lowest", "highest"), [(980, 20), (-1, 980), (20, 1001), (500, 500)])
def test_empty_ranges_of_timesteps_are_refused(lowest, highest):
    with pytest.raises(ValueError, match="`lowest` < `highest`"):
        shift_timestep(torch.tensor([3]), 5.0, lowest=lowest, highest=highest)


@pytest.mark.parametrize("shift", [0.0, -2.0, float("nan")])
def test_bad_shifts_are_refused(shift):
    with pytest.raises(ValueError, match="`shift` must be positive"):
        shift_timestep(torch.tensor([3]), shift)
    with pytest.raises(ValueError, match="`score_shift` must be positive"):
        ScoreSchedules(score_shift=shift)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: dmd_gradient(x, x[:1], x), "`fake` and `real` must have the shape"),
        (lambda x: dmd_loss(x, x[:, :2]), "`gradient` must have the shape"),
        (lambda x: dmd_loss(x, x, torch.ones_like(x)), "`mask` must be boolean"),
        (lambda x: dmd_loss(x, x, torch.ones(7, dtype=torch.bool)), "`mask` must broadcast"),
        (lambda x: dmd_loss(x, x, torch.zeros(1, dtype=torch.bool)), "count at least one"),
        (lambda x: critic_loss(x, x, x[:1], x, torch.zeros(2, 6), ScoreSchedules()), "must have the shape of `x`"),
    ],
)
def test_misfits_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(random(0))
