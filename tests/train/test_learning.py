"""Both trainings learn a distribution that is known: what the generator makes moves to what the teacher calls real."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from studio.train.distillation import Distillation, DistillConfig
from studio.train.longtune import LongTuneConfig, LongTuning
from studio.train.matching import Draw, MatchingTrainer
from tests.train import nets

MEAN, SPREAD = 1.5, 0.5


class GaussianTeacher(nn.Module):
    """The exact bidirectional network of latents that are normal about one mean, whatever the prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.config = nets.CONFIG.dit

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        sigma = (timestep / 1000)[..., None, None, None]
        rest = x - (1 - sigma) * MEAN
        variance = ((1 - sigma) * SPREAD) ** 2 + sigma**2
        return rest * sigma / variance - (MEAN + rest * (1 - sigma) * SPREAD**2 / variance)


def clips(it: MatchingTrainer) -> Tensor:
    """New frames of the next few clips."""
    found = []
    for index in range(8):
        with torch.no_grad():
            clip = it.clip(Draw(role="critic", step=10_000 + index, micro=0), gradient=False)
        mask = slice(None) if clip.mask is None else clip.mask.flatten()
        found.append(clip.latents[:, mask])
    return torch.cat(found, dim=1)


def trainer(recipe: str, folder: Path) -> MatchingTrainer:
    options = {
        "out": str(folder), "generator": "tiny", "teacher": "gaussian", "frames": 6, "batch": 4, "critic_updates": 2,
        "steps": 160, "generator_rate": 2e-3, "critic_rate": 4e-3, "guidance": 0.0, "score_shift": 5.0,
        "average": None, "recompute": False, "device": "cpu",
    }  # fmt: skip
    whole = nets.networks()
    whole.teacher = GaussianTeacher()  # type: ignore[assignment]
    if recipe == "distill":
        return Distillation(DistillConfig(**options), whole, nets.PROMPTS)
    return LongTuning(LongTuneConfig(**options, lora=None, new_frames=3, max_length=24), whole, nets.PROMPTS)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["distill", "long_tune"])
def test_the_generator_moves_to_the_teacher(tmp_path, recipe):
    it = trainer(recipe, tmp_path)
    before = clips(it)
    for _ in range(it.config.steps):
        it.step()
    after = clips(it)
    assert (after.mean() - MEAN).abs() < 0.3 * (before.mean() - MEAN).abs()
    assert (after.std() - SPREAD).abs() < (before.std() - SPREAD).abs()
