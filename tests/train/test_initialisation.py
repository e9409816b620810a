"""Causal initialisation: trajectories as the solver walks them, and a student that learns where they end."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from studio.config import CacheConfig
from studio.sampler import commit, make_cache
from studio.solvers import SOLVERS, EulerSolver, solve
from studio.train.initialisation import (
    Initialisation,
    InitialiseConfig,
    _windowed,
    initialise,
    initialise_preset,
    trajectory,
)
from studio.train.networks import TaughtNetworks
from tests.train import nets


def config(tmp_path, **changes) -> InitialiseConfig:
    fields = {"out": str(tmp_path / "run"), "generator": "tiny", "teacher": "tiny", "steps": 4, "frames": 9, "reuse": 2,
              "generator_rate": 1e-3, "solver": "euler", "solver_steps": 8, "guidance": 1.0, "recompute": False,
              "device": "cpu"}  # fmt: skip
    return InitialiseConfig(**{**fields, **changes})


def networks(cache: CacheConfig | None = None) -> TaughtNetworks:
    model = dataclasses.replace(nets.CONFIG, cache=cache or nets.CONFIG.cache)
    whole = nets.networks(model)
    return TaughtNetworks(config=model, generator=whole.generator, teacher=whole.teacher, encode=nets.encode)


def trainer(tmp_path, cache: CacheConfig | None = None, **changes) -> Initialisation:
    return Initialisation(config(tmp_path, **changes), networks(cache), nets.PROMPTS)


def curve(run) -> list[float]:
    return [row["generator_loss"] for row in run.history]


@pytest.mark.parametrize("name", list(SOLVERS))
def test_a_trajectory_ends_where_the_solver_ends_and_is_looked_at_on_the_way(name):
    target = torch.full((2, 3), 2.0)
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    flow = lambda x, timestep: noise - target  # noqa: E731  a straight trajectory
    solver = SOLVERS[name](12, shift=5.0)
    sigmas = torch.tensor([1.0, 0.9375, 0.625, 0.1])
    states, end = trajectory(solver, flow, noise, sigmas)
    torch.testing.assert_close(end, solve(SOLVERS[name](12, shift=5.0), flow, noise))
    for sigma, state in zip(sigmas, states, strict=True):
        torch.testing.assert_close(state, (1 - sigma) * target + sigma * noise, atol=2e-3, rtol=1e-3)


def test_states_at_the_solvers_own_levels_are_its_own(tmp_path):
    it = trainer(tmp_path)
    seen = {}
    flow = it._flow(it.encoded(0)[0])

    def listening(x, timestep):
        seen[round(float(timestep[0]), 2)] = x
        return flow(x, timestep)

    states, _ = trajectory(EulerSolver(8, shift=5.0), listening, it.drawn(9, "x"), it.timesteps / 1000)
    for timestep, state in zip(it.timesteps, states, strict=True):
        torch.testing.assert_close(state, seen[round(float(timestep), 2)], atol=1e-5, rtol=1e-5)


def test_the_teacher_is_guided_and_bidirectional(tmp_path):
    it = trainer(tmp_path, guidance=2.0)
    text, _ = it.encoded(0)
    x, timestep = it.drawn(9, "x"), torch.full((1,), 500.0)
    with torch.no_grad():
        prompted, blank = (it.networks.teacher(x, timestep, t) for t in (text, it.negative))
        torch.testing.assert_close(it._flow(text)(x, timestep), prompted + 2.0 * (prompted - blank))


@pytest.mark.parametrize("cache", [CacheConfig(sink=3, window=6), CacheConfig(sink=0, window=None, attend=6)])
def test_the_student_learns_under_the_rules_of_its_cache(tmp_path, cache):
    it = trainer(tmp_path, cache, frames=15)
    _, end, text = it.walked(0)
    x, timestep = it.drawn(15, "x"), torch.full((1, 30), 500.0)
    timestep[:, :15] = 0.0
    with torch.no_grad():
        forced = it.networks.generator(torch.cat([end, x], dim=1), timestep, text, context=it.context)[:, 15:]
        from studio.model.attention import CachedContext

        played = make_cache(it.networks.config, frames=15)
        for start in range(0, 15, 3):
            part = slice(start, start + 3)
            context = CachedContext(played, played.begin())
            flow = it.networks.generator(x[:, part], timestep[:, 15:18], text, context=context)
            torch.testing.assert_close(flow, forced[:, part], atol=1e-4, rtol=1e-3)
            commit(it.networks.generator, played, end[:, part], text, it.networks.config.sampler)


def test_a_window_stands_for_none_in_one_clip():
    model = dataclasses.replace(nets.CONFIG, cache=CacheConfig(sink=0, window=None))
    assert _windowed(model, 9).capacity == 9


def test_it_learns_and_trajectories_serve_as_often_as_told(tmp_path):
    it = trainer(tmp_path, steps=60, reuse=3, batch=2, generator_rate=3e-3)
    calls = []
    it.networks.teacher.register_forward_hook(lambda *_: calls.append(it.done))
    before = [it.loss(micro).item() for micro in range(4)]
    calls.clear()
    it._walked = {}
    for _ in range(60):
        it.step()
    assert len(calls) == 20 * 8 and {done % 3 for done in calls} == {0}
    it.done = 0
    it._walked = {}
    after = [it.loss(micro).item() for micro in range(4)]
    assert sum(after) < 0.8 * sum(before)


def test_the_command_resumes_bit_for_bit(tmp_path):
    straight = initialise(config(tmp_path / "a", accumulate=2), networks=networks(), prompts=nets.PROMPTS)
    other = config(tmp_path / "b", accumulate=2)
    first = initialise(dataclasses.replace(other, steps=3), networks=networks(), prompts=nets.PROMPTS)
    resumed = initialise(other, networks=networks(), prompts=nets.PROMPTS)
    assert len(first.history) == 3 and curve(resumed) == curve(straight)
    mine, theirs = resumed.networks.generator.state_dict(), straight.networks.generator.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("options", [{"lora": 2}, {"precision": "bf16"}, {"recompute": True}, {"solver": "unipc"}])
def test_every_way_of_training_takes_a_step(tmp_path, options):
    it = trainer(tmp_path, **options)
    before = {name: value.clone() for name, value in it.networks.generator.state_dict().items()}
    assert all(torch.isfinite(torch.tensor(value)) for value in it.step().values())
    assert any(not torch.equal(before[name], value) for name, value in it.networks.generator.state_dict().items())


def test_presets_and_bad_configurations(tmp_path):
    public = initialise_preset("wan2.1-t2v-1.3b", out="o")
    assert (public.generator_rate, public.solver, public.solver_steps, public.guidance) == (2e-6, "unipc", 50, 5.0)
    assert InitialiseConfig.load(public.save(tmp_path / "c.json")) == public
    for changes, message in (
        ({"solver": "heun"}, "`solver` must be one of euler, unipc"),
        ({"solver_steps": 0}, "`solver_steps` must be a whole number"),
        ({"reuse": 0}, "`reuse` must be"),
        ({"guidance": -1.0}, "`guidance` must be"),
        ({"solver_shift": 0.0}, "`solver_shift` must be"),
    ):
        with pytest.raises(ValueError, match=message):
            config(tmp_path, **changes)
