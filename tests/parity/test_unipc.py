"""UniPC against the official solver: its tables, and its trajectory replayed over stored network outputs."""

from __future__ import annotations

import pytest
import torch

from studio.solvers import UniPCSolver
from tests.parity.fixtures import assert_close, load, variant_params


def replay(path, name):
    info, tensors = load(path)
    variant = info["variants"][name]
    part = {key: tensors[f"{key.split('.')[0]}.{name}.{key.split('.')[1]}"] for key in
            ("in.sample0", "in.model_outputs", "out.samples", "out.timesteps", "out.sigmas")}  # fmt: skip
    return UniPCSolver(variant["num_inference_steps"], shift=variant["shift"]), part


@pytest.mark.parametrize(("path", "name"), variant_params("unipc"))
def test_tables(path, name):
    solver, part = replay(path, name)
    assert torch.equal(solver.timesteps, part["out.timesteps"])
    assert_close(solver.sigmas, part["out.sigmas"], "sigmas", tolerance=1e-6)


@pytest.mark.parametrize(("path", "name"), variant_params("unipc"))
def test_trajectory(path, name):
    solver, part = replay(path, name)
    x = part["in.sample0"]
    for index, (flow, expected) in enumerate(zip(part["in.model_outputs"], part["out.samples"], strict=True)):
        x = solver.step(flow, x)
        assert_close(x, expected, f"step {index}")


@pytest.mark.parametrize(("path", "name"), variant_params("unipc"))
def test_a_reset_solver_repeats_itself(path, name):
    solver, part = replay(path, name)
    ends = []
    for _ in range(2):
        solver.reset()
        x = part["in.sample0"]
        for flow in part["in.model_outputs"]:
            x = solver.step(flow, x)
        ends.append(x)
    assert torch.equal(*ends)
