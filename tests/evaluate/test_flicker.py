"""Flicker and drift against plain loops and made-up videos."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from studio.config import PRESETS
from studio.evaluate.flicker import block_boundaries, measure_drift, measure_flicker
from studio.shapes import VideoShape

SHAPE = VideoShape.of(PRESETS["miniature"])


def video(count: int = 33, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 5, 3)).astype(np.uint8)


def test_blocks_begin_where_the_shape_says():
    assert block_boundaries(SHAPE, 33) == (9, 21)
    assert block_boundaries(SHAPE, 34) == (9, 21, 33)
    assert block_boundaries(SHAPE, 36, first_block=2) == (12, 24)
    assert block_boundaries(SHAPE, 9) == block_boundaries(SHAPE, 0) == ()


def test_flicker_equals_loops_over_pixels():
    frames = video()
    found = measure_flicker(frames, (9, 21))
    differences = []
    for a, b in itertools.pairwise(frames):
        differences.append(sum(abs(int(x) - int(y)) for x, y in zip(a.flat, b.flat, strict=True)) / a.size)
    np.testing.assert_allclose(found.differences, differences)
    at = [differences[8], differences[20]]
    rest = [d for i, d in enumerate(differences) if i not in (8, 20)]
    assert found.ratio == pytest.approx((sum(at) / 2) / (sum(rest) / len(rest)))
    assert [row["frame"] for row in found.rows() if row["boundary"]] == [9, 21] and len(found.rows()) == 32


def test_a_jump_at_each_boundary_is_seen_and_even_motion_is_not():
    levels = np.arange(33, dtype=np.uint8)
    even = np.broadcast_to(levels[:, None, None, None], (33, 2, 2, 3)).copy()
    assert measure_flicker(even, (9, 21)).ratio == 1
    jumping = even.copy()
    jumping[9:] += 10
    jumping[21:] += 10
    assert measure_flicker(jumping, (9, 21)).ratio == 11


def test_falling_levels_do_not_wrap_round():
    frames = np.stack([np.full((2, 2, 3), level, np.uint8) for level in (250, 5, 0)])
    assert measure_flicker(frames, (1,)).differences.tolist() == [245, 5]


def test_a_still_picture_has_no_ratio_and_a_jumping_one_an_infinite_one():
    still = np.zeros((5, 2, 2, 3), np.uint8)
    assert math.isnan(measure_flicker(still, (2,)).ratio)
    still[2:] = 9
    assert measure_flicker(still, (2,)).ratio == math.inf


def test_drift_equals_a_fitted_line():
    frames = video()
    found = measure_drift(frames, 16)
    means = [[float(np.mean([int(v) for v in frame[..., c].flat])) for c in range(3)] for frame in frames]
    np.testing.assert_allclose(found.colour, means)
    luma = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in means]
    np.testing.assert_allclose(found.brightness, luma)
    seconds = np.arange(33) / 16
    assert found.brightness_slope == pytest.approx(np.polyfit(seconds, luma, 1)[0])
    for channel in range(3):
        assert found.colour_slope[channel] == pytest.approx(np.polyfit(seconds, np.array(means)[:, channel], 1)[0])
    assert found.rows()[16]["seconds"] == 1.0


def test_a_video_that_grows_brighter_drifts_by_its_levels_a_second():
    frames = np.stack([np.full((2, 2, 3), 100 + t, np.uint8) for t in range(32)])
    assert measure_drift(frames, 16).brightness_slope == pytest.approx(16)
    red = frames.copy()
    red[..., 1:] = 50
    assert measure_drift(red, 16).colour_slope == pytest.approx((16, 0, 0))


@pytest.mark.parametrize(
    "frames",
    [video().astype(np.float32), video()[0], video()[..., :2], video()[:, :0], np.zeros((0, 2, 2, 3), np.uint8)],
)
def test_what_is_no_video_is_refused(frames):
    with pytest.raises(ValueError, match="must be uint8"):
        measure_flicker(frames, (1,))
    with pytest.raises(ValueError, match="must be uint8"):
        measure_drift(frames, 16)


@pytest.mark.parametrize("boundaries", [(), (0,), (33,), (-1,), tuple(range(1, 33))])
def test_boundaries_that_leave_nothing_to_compare_are_refused(boundaries):
    with pytest.raises(ValueError, match="some, but not all"):
        measure_flicker(video(), boundaries)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_an_impossible_rate_is_refused(fps):
    with pytest.raises(ValueError, match="`fps` must be positive"):
        measure_drift(video(), fps)


def test_one_frame_cannot_drift():
    with pytest.raises(ValueError, match="at least two"):
        measure_drift(video(1), 16)


@pytest.mark.parametrize(("frames", "first"), [(-1, 0), (9, -1)])
def test_negative_counts_are_refused(frames, first):
    with pytest.raises(ValueError, match="at least 0"):
        block_boundaries(SHAPE, frames, first_block=first)
