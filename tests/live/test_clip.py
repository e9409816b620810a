"""A clip at a time by a bidirectional network: the right length, guidance, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from studio.live.clip import clip
from studio.model.blank import blank_models
from studio.shapes import VideoShape
from studio.solvers import EulerSolver
from tests.live.doubles import tiny_config

CONFIG = dataclasses.replace(tiny_config(), causal=False)
PROMPT = "a red fox runs"


@pytest.fixture(scope="module")
def models():
    made = blank_models(CONFIG)
    torch.manual_seed(0)
    for parameter in made.dit.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("seconds", [0.01, 0.5, 1.0, 1.3])
def test_a_clip_is_as_long_as_asked_for_and_whole(models, seconds):
    frames = clip(models, PROMPT, seconds=seconds, steps=2)
    shape = VideoShape.of(CONFIG)
    wanted = max(1, round(seconds * shape.fps))
    assert frames.dtype == np.uint8 and frames.shape[1:] == (16, 24, 3) and not frames.flags.writeable
    assert wanted <= len(frames) < wanted + 4 and len(frames) in [shape.frames_of(f) for f in range(1, 12)]


@pytest.mark.parametrize("solver", ["unipc", "euler"])
def test_the_seed_and_the_prompts_make_the_clip(models, solver):
    def made(prompt=PROMPT, **options):
        return clip(models, prompt, seconds=0.3, steps=3, solver=solver, **options)

    assert np.array_equal(made(), made())
    for other in (made(seed=1), made("a blue rabbit"), made(negative="snow"), made(guidance=1.0)):
        assert not np.array_equal(made(), other)


@torch.no_grad()
def test_guidance_leads_away_from_the_negative_prompt(models):
    # One Euler step by hand: x - sigma * (negative + g * (prompt - negative)), decoded.
    from studio.sampler import NoiseSource

    shape = VideoShape.of(CONFIG)
    walk = EulerSolver(1, shift=5.0)
    x = NoiseSource(7, shape.latents(1, 2))(0, 0)
    times = walk.timesteps[:1].expand(1, 2)
    prompt, negative = (models.dit(x, times, models.text.encode([text])) for text in (PROMPT, "snow"))
    latents = x + (walk.sigmas[1] - walk.sigmas[0]) * (negative + 3.0 * (prompt - negative))
    pixels = models.vae.decode(latents)[0].add(1).mul(127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
    found = clip(models, PROMPT, negative="snow", guidance=3.0, steps=1, solver="euler", seed=7, seconds=5 / shape.fps)
    assert np.abs(found.astype(int) - pixels.numpy().astype(int)).max() <= 1


def test_progress_is_told(models):
    told = []
    clip(models, PROMPT, seconds=0.1, steps=4, progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ""}, "prompt"),
        ({"steps": 0}, "`steps`"),
        ({"seconds": 0}, "`seconds` must be positive"),
        ({"seconds": float("nan")}, "`seconds` must be positive"),
        ({"guidance": -1}, "`guidance`"),
        ({"solver": "heun"}, "`solver` must be one of"),
        ({"shift": 0}, "`shift`"),
        ({"seed": -1}, "seed"),
        ({"dtype": "bfloat16"}, r"give it to `studio\.load`"),
    ],
)
def test_what_is_refused(models, change, message):
    with pytest.raises(ValueError, match=message):
        clip(models, **{"prompt": PROMPT, "seconds": 0.1, "steps": 1} | change)


def test_a_causal_model_is_sent_to_open():
    with pytest.raises(ValueError, match=r"studio\.open"):
        clip(blank_models(tiny_config()), PROMPT, steps=1)
