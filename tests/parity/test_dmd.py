"""Distribution matching against the reference: every intermediate tensor, both losses and their gradients."""

from __future__ import annotations

import pytest

from studio.train.dmd import ScoreSchedules, critic_loss, dmd_gradient, dmd_loss, guided, shift_timestep
from tests.parity.fixtures import assert_close, case_params, load, variant_params

TOLERANCE = 1e-6


class Case:
    """One variant: its options, its inputs and what the reference made of them."""

    def __init__(self, path, name):
        info, tensors = load(path)
        self.options = info["variants"][name]
        self.given = {k.removeprefix("in."): t for k, t in tensors.items() if k.startswith("in.")}
        prefix = f"out.{name}."
        self.out = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        self.schedules = ScoreSchedules(
            noise_shift=self.options["noising_scheduler_shift"], score_shift=self.options["score_model_scheduler_shift"]
        )
        raw = self.given["raw_timestep"].expand(self.given["x"].shape[:2])
        self.timestep = shift_timestep(
            raw, self.options["timestep_shift"], lowest=self.options["min_step"], highest=self.options["max_step"]
        )
        self.noisy = self.schedules.noising.add_noise(self.given["x"], self.given["noise"], self.timestep)

    def clean(self, network):
        return self.schedules.score.x0_from_flow(self.given[f"flow_{network}"], self.noisy, self.timestep)

    def gradient(self):
        fake = guided(self.clean("fake_cond"), self.clean("fake_uncond"), self.options["fake_guidance_scale"])
        real = guided(self.clean("real_cond"), self.clean("real_uncond"), self.options["real_guidance_scale"])
        return dmd_gradient(self.given["x"], fake, real)

    def expect(self, got, name):
        assert_close(got, self.out[name], name, TOLERANCE)


variants = pytest.mark.parametrize(("path", "name"), variant_params("dmd"))


@variants
def test_noising_and_predictions(path, name):
    case = Case(path, name)
    assert_close(case.timestep, case.out["timestep"], "timestep", TOLERANCE)
    assert_close(case.timestep, case.out["critic_timestep"], "critic timestep", TOLERANCE)
    case.expect(case.noisy, "noisy")
    for network in ("fake_cond", "real_cond", "real_uncond"):
        case.expect(case.clean(network), f"pred_{network}")


@variants
def test_the_gradient_and_its_parts(path, name):
    case = Case(path, name)
    found = case.gradient()
    case.expect(found.difference, "grad_before_normalization")
    case.expect(found.normaliser, "normalizer")
    case.expect(found.gradient, "grad")
    case.expect(found.gradient.abs().mean(), "dmdtrain_gradient_norm")


@variants
@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_and_its_gradient(path, name, masked):
    case = Case(path, name)
    x = case.given["x"].clone().requires_grad_(True)
    loss = dmd_loss(x, case.gradient().gradient, case.given["gradient_mask"].bool() if masked else None)
    loss.backward()
    prefix = "masked." if masked else ""
    assert loss.dtype == case.out[f"{prefix}loss"].dtype
    case.expect(loss.detach(), f"{prefix}loss")
    case.expect(x.grad, f"{prefix}dloss_dx")
    assert loss.item() == pytest.approx(case.options["masked_loss" if masked else "loss"], abs=TOLERANCE)


@variants
def test_the_critic_loss_and_its_gradient(path, name):
    case = Case(path, name)
    flow = case.given["flow_fake_cond"].clone().requires_grad_(True)
    loss = critic_loss(flow, case.given["x"], case.given["noise"], case.noisy, case.timestep, case.schedules)
    loss.backward()
    case.expect(loss.detach(), "critic_loss")
    case.expect(flow.grad, "dcritic_dflow_fake")
    plain = (case.given["flow_fake_cond"] - (case.given["noise"] - case.given["x"])).square().mean().item()
    assert plain == pytest.approx(case.options["critic_loss_plain_mse_of_flow"], abs=TOLERANCE)


@pytest.mark.parametrize("path", case_params("dmd"))
def test_the_shift_of_timesteps(path):
    info, tensors = load(path)
    for key in [key for key in tensors if key.startswith("out.shift_formula_shift")]:
        shift = float(key.rsplit("shift", 1)[1])
        limits = next(iter(info["variants"].values()))
        got = shift_timestep(
            tensors["in.shift_formula_raw"], shift, lowest=limits["min_step"], highest=limits["max_step"]
        )
        assert_close(got, tensors[key], key, TOLERANCE)
