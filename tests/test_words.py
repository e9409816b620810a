"""Words: configurations, units of a video, and the lazy front door."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.config import (
    PRESETS,
    CacheConfig,
    DiTConfig,
    ModelConfig,
    SamplerConfig,
    TextConfig,
    VAEConfig,
    from_dict,
    preset,
    to_dict,
)
from studio.shapes import VideoShape

SHAPE = VideoShape.of(preset("miniature"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    assert from_dict(ModelConfig, to_dict(PRESETS[name])) == PRESETS[name]


def test_the_big_model_has_the_papers_numbers():
    shape = VideoShape.of(preset("longlive-1.3b"))
    assert (shape.tokens_per_frame, shape.latent_height, shape.latent_width) == (1560, 60, 104)
    assert preset("longlive-1.3b").cache.capacity == 12
    assert shape.frames_of(21) == 81


@given(st.integers(0, 10_000))
def test_frames_blocks_and_latent_frames_agree(block):
    first, count = SHAPE.first_frame(block), SHAPE.frames_in(block)
    assert SHAPE.block_at(first) == SHAPE.block_at(first + count - 1) == block
    assert first + count == SHAPE.first_frame(block + 1)
    assert SHAPE.latent_frame_at(first) == block * SHAPE.block
    assert SHAPE.seconds(first) == SHAPE.block_seconds(block)


@given(st.floats(0.01, 10_000))
def test_blocks_for_is_the_least_number_that_lasts(seconds):
    blocks = SHAPE.blocks_for(seconds)
    assert SHAPE.block_seconds(blocks) >= seconds - 1e-6
    assert blocks == 1 or SHAPE.block_seconds(blocks - 1) < seconds


@given(st.integers(0, 1000))
def test_a_switch_takes_effect_at_the_first_block_at_or_after_its_frame(latent_frame):
    block = SHAPE.block_at_latent_frame(latent_frame)
    assert block * SHAPE.block >= latent_frame > (block - 1) * SHAPE.block


def test_configurations_are_frozen_and_named():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("miniature").fps = 8  # type: ignore[misc]
    with pytest.raises(TypeError):
        CacheConfig(3, 9)  # type: ignore[misc]


DIT = {"dim": 64, "ffn_dim": 64, "heads": 2, "layers": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: preset("minature"), "did you mean 'miniature'"),
        (lambda: from_dict(CacheConfig, {"sinks": 3}), "`sinks` is not a key of CacheConfig; did you mean `sink`"),
        (lambda: from_dict(CacheConfig, [3]), "must be read from a mapping, got list"),
        (lambda: from_dict(DiTConfig, {"dim": 64}), "could not be built"),
        (lambda: DiTConfig(**DIT | {"dim": 65}), "multiple of twice the 2 heads, got 65"),
        (lambda: DiTConfig(**DIT | {"layers": 0}), "`layers` must be a whole number of at least 1, got 0"),
        (lambda: DiTConfig(**DIT | {"layers": True}), "got True"),
        (lambda: DiTConfig(**DIT, freq_dim=3), "`freq_dim` must be even, got 3"),
        (lambda: DiTConfig(**DIT, patch=(2, 2, 2)), "`patch` must be"),
        (lambda: VAEConfig(temporal_downsample=(True,)), "one entry a halving, 3, got 1"),
        (lambda: VAEConfig(mean=(0.0,)), "need 16 entries"),
        (lambda: VAEConfig(std=(0.0,) * 16), "`std` must be positive"),
        (lambda: TextConfig(heads=7), "multiple of the 7 heads"),
        (lambda: CacheConfig(sink=-1), "at least 0 latent frames, got -1"),
        (lambda: CacheConfig(window=0), "at least 1 latent frame, got 0"),
        (lambda: CacheConfig(window=None), "`sink` must be 0"),
        (lambda: CacheConfig(attend=3), "`attend` limits only a cache without a window"),
        (lambda: CacheConfig(positions="relative"), "must be one of absolute, window, got 'relative'"),
        (lambda: CacheConfig(sink_policy="forget"), "must be one of keep, rewrite"),
        (lambda: SamplerConfig(steps=(250, 500)), "must fall"),
        (lambda: SamplerConfig(steps=()), "timesteps in"),
        (lambda: SamplerConfig(steps=(1001,)), "timesteps in"),
        (lambda: SamplerConfig(shift=0), "`shift` must be positive"),
        (lambda: SamplerConfig(context_timestep=1000), "context_timestep"),
        (lambda: dataclasses.replace(preset("miniature"), height=130), "multiple of 16, got 130; use 128 or 144"),
        (
            lambda: dataclasses.replace(preset("miniature"), cache=CacheConfig(window=8)),
            "`window` must be a multiple of the block size 3, got 8; use 6 or 9",
        ),
        (lambda: dataclasses.replace(preset("miniature"), text=TextConfig()), "must equal `text.dim`"),
        (lambda: dataclasses.replace(preset("miniature"), vae=VAEConfig()), "must"),
        (lambda: SHAPE.frames_of(-1), "at least 0, got -1"),
        (lambda: SHAPE.latent_frame_at(-1), "at least 0, got -1"),
        (lambda: SHAPE.blocks_for(float("nan")), "positive and finite, got nan"),
        (lambda: SHAPE.blocks_for(float("inf")), "positive and finite, got inf"),
    ],
)
def test_bad_values_are_named_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_front_door_is_lazy_and_honest():
    code = "import sys, studio; assert 'torch' not in sys.modules; print(studio.__version__, sorted(studio.__all__)[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    import studio

    assert done.stdout.split() == [studio.__version__, min(studio.__all__)]
    assert all(getattr(studio, name) is not None for name in studio.__all__)

    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = studio.opne
    assert {"open", "Studio", "Session"} <= set(dir(studio))
