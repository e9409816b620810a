"""The flow schedule against the reference: tables, warped steps, noising, conversions, one Euler step."""

from __future__ import annotations

import ast

import pytest
import torch

from studio.schedule import FlowSchedule
from tests.parity.fixtures import assert_close, load, variant_params


@pytest.mark.parametrize(("path", "name"), variant_params("scheduler"))
def test_schedule(path, name):
    info, tensors = load(path)
    variant = info["variants"][name]
    out = {key.removeprefix(f"out.{name}."): t for key, t in tensors.items() if key.startswith(f"out.{name}.")}
    options = {key: variant[key] for key in ("sigma_min", "sigma_max", "extra_one_step")}
    schedule = FlowSchedule(shift=variant["shift"], count=len(out["sigmas"]), **options)
    assert_close(schedule.sigmas, out["sigmas"], "sigmas", tolerance=1e-6)
    assert_close(schedule.timesteps, out["timesteps"], "timesteps", tolerance=1e-3)
    assert_close(schedule.weights, out["linear_timesteps_weights"], "training weights")
    default = FlowSchedule(shift=variant["shift"], count=len(out["default_100_sigmas"]), **options)
    assert_close(default.sigmas, out["default_100_sigmas"], "a shorter table", tolerance=1e-6)

    for steps, warped in variant["warped"].items():
        assert_close(schedule.warp(ast.literal_eval(steps)), torch.tensor(warped), "warped steps", tolerance=1e-3)
    for key in [key for key in out if key.startswith("warped_step_list.")]:
        steps = tensors[f"in.denoising_step_list.{key.rsplit('.', 1)[1]}"].tolist()
        assert_close(schedule.warp(steps), out[key], "warped step list", tolerance=1e-3)

    x0, noise, flow, t = (tensors[f"in.{key}"] for key in ("x0", "noise", "flow", "timestep"))
    noisy = out["add_noise"]
    assert torch.equal(schedule.index(t), out["sigma_index"])
    assert_close(schedule.weight(t), out["training_weight"], "weight at a timestep")
    assert_close(schedule.add_noise(x0, noise, t), noisy, "noising")
    assert_close(schedule.x0_from_flow(flow, noisy, t), out["x0_from_flow"], "x0 from flow")
    assert_close(schedule.flow_from_x0(x0, noisy, t), out["flow_from_x0"], "flow from x0")
    assert_close(schedule.step(flow, noisy, t), out["step"], "an Euler step")
