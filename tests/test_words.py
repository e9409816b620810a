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
from studio.schedule import FlowSchedule
from studio.shapes import MAX_BLOCKS, VideoClock, VideoShape

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
        (lambda: DiTConfig(**DIT, eps=-1.0), "`eps` must be positive, got -1.0"),
        (lambda: VAEConfig(decoder_dim=-4), "`decoder_dim` must be a whole number of at least 1, got -4"),
        (lambda: VAEConfig(decoder_res_blocks=-1), "`decoder_res_blocks` must be at least 0, got -1"),
        (lambda: VAEConfig(dim_mult=(1, 0, -2, 4)), "`dim_mult` must hold at least one level, each at least 1"),
        (lambda: VAEConfig(dim_mult=(), temporal_downsample=()), "`dim_mult` must hold at least one level"),
        (
            lambda: from_dict(ModelConfig, to_dict(preset("miniature")) | {"cache": None}),
            "`cache` must be a CacheConfig, got None",
        ),
        (
            lambda: dataclasses.replace(
                preset("miniature"), dit=dataclasses.replace(preset("miniature").dit, out_channels=4)
            ),
            "`dit.out_channels` must equal `dit.in_channels` 8, got 4",
        ),
        (
            lambda: dataclasses.replace(preset("miniature"), cache=CacheConfig(sink=0, window=None, attend=1)),
            "`attend` must be at least the block size 3, got 1",
        ),
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
        (lambda: SHAPE.blocks_for(10**400), "must be at most 750000, 1000000 blocks, got 1e\\+300"),
    ],
)
def test_bad_values_are_named_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()


NAN = float("nan")


@pytest.mark.parametrize(
    ("config", "field", "values", "wanted"),
    [
        (SamplerConfig(), "shift", (NAN, float("inf"), 10**400, True, "5"), "a finite number"),
        (SamplerConfig(), "context_timestep", (NAN, False), "a finite number"),
        (SamplerConfig(), "steps", ((1000.0, 500.0), (True,), [1000, 500], "abc"), "a tuple of whole numbers"),
        (CacheConfig(), "sink", (2.5, True, None, "3"), "a whole number"),
        (CacheConfig(), "window", (9.0, NAN, True), "a whole number or None"),
        (CacheConfig(sink=0, window=None), "attend", (2.5, True), "a whole number or None"),
        (CacheConfig(), "positions", (1, ["window"]), "one of absolute, window"),
        (DiTConfig(**DIT), "patch", ((1, 2.0, 2.0), (1, True, 2), (1, 2)), "a tuple of 3 whole numbers"),
        (DiTConfig(**DIT), "eps", (NAN, "1e-6"), "a finite number"),
        (DiTConfig(**DIT), "qk_norm", ("false", 0), "true or false"),
        (VAEConfig(), "dim_mult", ((1, 2.5, 4, 4),), "a tuple of whole numbers"),
        (VAEConfig(), "temporal_downsample", (("no",) * 3, (0, 1, 1)), "a tuple of truth values"),
        (VAEConfig(), "mean", (("x",) * 16, (NAN,) * 16), "a tuple of finite numbers"),
        (VAEConfig(), "std", ((NAN,) * 16,), "a tuple of finite numbers"),
        (preset("miniature"), "causal", ("false", 1, None), "true or false"),
        (preset("miniature"), "name", (7,), "a text"),
        *((preset("miniature"), part.name, (None, {}, 3), "a ") for part in dataclasses.fields(ModelConfig)[3:8]),
    ],
)
def test_every_field_must_be_of_its_kind(config, field, values, wanted):
    for value in values:
        with pytest.raises(ValueError, match=f"`{field}` must be {wanted}") as refused:
            dataclasses.replace(config, **{field: value})
        assert repr(value)[:20] in str(refused.value)


def test_whole_numbers_may_stand_for_others():
    sampler = SamplerConfig(shift=3, context_timestep=0)
    assert sampler == from_dict(SamplerConfig, {"shift": 3.0})
    assert VAEConfig(mean=(0,) * 16, std=(1,) * 16).std == (1.0,) * 16


@given(st.floats(1e-9, 1e30), st.sampled_from([0.37, 16, 24, 29.97, 30.0, 1000]), st.integers(1, 5))
def test_a_time_has_its_block_or_is_too_long(seconds, fps, block):
    clock = VideoClock(block=block, temporal_factor=4, fps=fps)
    if seconds > clock.block_seconds(MAX_BLOCKS):
        with pytest.raises(ValueError, match="must be at most"):
            clock.blocks_for(seconds)
        return
    blocks = clock.blocks_for(seconds)
    assert 1 <= blocks <= MAX_BLOCKS
    assert clock.block_seconds(blocks) >= seconds - 1e-9
    assert blocks == 1 or clock.block_seconds(blocks - 1) < seconds


@pytest.mark.parametrize("count", [100, 1000])
def test_steps_are_warped_to_entries_of_the_table_and_to_no_others(count):
    schedule = FlowSchedule(shift=3.0, count=count)
    assert schedule.warp((count, 1, 0)).tolist() == [*schedule.timesteps[[0, -1]].tolist(), 0.0]
    for steps in ((count + 1,), (-1,), (count / 2,), (1.0,), (True,)):
        with pytest.raises(ValueError, match=rf"`steps` must be whole numbers in 0\.\.{count}"):
            schedule.warp(steps)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"shift": value}, "`shift` must be positive and finite") for value in (NAN, float("inf"), 0, -1)]
    + [({"count": value}, "`count` must be a whole number of at least 1") for value in (0, 2.5, True)],
)
def test_a_schedule_has_a_table_of_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        FlowSchedule(**options)


def test_the_front_door_is_lazy_and_honest():
    code = "import sys, studio; assert 'torch' not in sys.modules; print(studio.__version__, sorted(studio.__all__)[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    import studio

    assert done.stdout.split() == [studio.__version__, min(studio.__all__)]
    assert all(getattr(studio, name) is not None for name in studio.__all__)

    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = studio.opne
    assert {"open", "Studio", "Session"} <= set(dir(studio))
