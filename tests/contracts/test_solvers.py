"""Contracts of the solvers: exact where they must be, better with more steps, and loud about misuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studio.solvers import SOLVERS, EulerSolver, UniPCSolver, solve
from tests.contracts import tiny

KINDS = sorted(SOLVERS)


def gaussian_flow(spread: float):
    """The exact flow towards normal latents of deviation `spread`, whose clean end is spread * noise."""

    def flow(x, timestep):
        sigma = (timestep.double() / 1000).view(-1, *[1] * (x.dim() - 1))
        variance = (1 - sigma) ** 2 * spread**2 + sigma**2
        return (x.double() * (sigma - (1 - sigma) * spread**2) / variance).to(x.dtype)

    return flow


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_flow_is_followed_exactly(kind):
    noise, goal = tiny.latents(3), tiny.latents(3, seed=9)
    end = solve(SOLVERS[kind](7), lambda x, t: noise - goal, noise)
    first = SOLVERS[kind](7).sigmas[0]
    torch.testing.assert_close(end, noise - first * (noise - goal), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_more_steps_come_closer(kind):
    noise = tiny.latents(3)
    errors = [(solve(SOLVERS[kind](n), gaussian_flow(0.5), noise) - 0.5 * noise).abs().max() for n in (5, 20, 80)]
    assert errors[0] > errors[1] > errors[2]


def test_the_second_order_beats_the_first():
    noise = tiny.latents(3)
    first, second = (
        (solve(kind(20, shift=1.0), gaussian_flow(0.5), noise) - 0.5 * noise).abs().max()
        for kind in (EulerSolver, UniPCSolver)
    )
    assert second < first / 3


@pytest.mark.parametrize("kind", KINDS)
def test_tables_fall_to_zero(kind):
    solver = SOLVERS[kind](50)
    assert solver.sigmas.shape == (51,) and solver.timesteps.shape == (50,)
    assert (solver.sigmas.diff() < 0).all() and solver.sigmas[-1] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_type_of_the_latents_is_kept(kind):
    noise = tiny.latents(3).bfloat16()
    assert solve(SOLVERS[kind](3), lambda x, t: torch.zeros_like(x), noise).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [0, -3, 1001, 2.5, True])
def test_bad_step_counts_are_refused(kind, steps):
    with pytest.raises(ValueError, match="`steps` must be a whole number"):
        SOLVERS[kind](steps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shift", [0, -1.0, float("inf"), float("nan")])
def test_bad_shifts_are_refused(kind, shift):
    with pytest.raises(ValueError, match="`shift` must be positive"):
        SOLVERS[kind](4, shift=shift)


@pytest.mark.parametrize("kind", KINDS)
def test_misuse_of_a_step_is_named(kind):
    solver, x = SOLVERS[kind](1), tiny.latents(3)
    with pytest.raises(ValueError, match="must have the shape of `x`"):
        solver.step(x[:, :2], x)
    solver.step(x, x)
    with pytest.raises(RuntimeError, match="call `reset"):
        solver.step(x, x)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0])
@pytest.mark.parametrize("steps", [1, 3, 8, 27, 30, 37, 50])
def test_unipc_has_the_official_levels_at_any_number_of_steps(steps, shift):
    # The official table keeps its first level in float32 and goes on in float64; timesteps are cut to whole ones.
    line = np.linspace(float(np.float32(0.999)), 0, steps + 1)[:-1]
    levels = shift * line / (1 + (shift - 1) * line)
    solver = UniPCSolver(steps, shift=shift)
    assert solver.timesteps.tolist() == (levels * 1000).astype(np.int64).tolist()
    torch.testing.assert_close(solver.sigmas[:-1], torch.from_numpy(levels).float(), atol=1e-7, rtol=0)
