"""Quality follows the link: down at once where it must, up again slowly, and parts where a block takes long."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import simplejpeg

from studio.widgets.codec import encode_frames
from studio.widgets.quality import LARGE, SMALL, Pacing


class Line:
    """A link that carries so many bytes a second, after a delay; pictures weigh what their level says.

    `busy_s` is what the page takes for a frame besides, however light it is.
    """

    def __init__(self, pacing: Pacing, rate: float, best: float, fps: float, delay: float = 0.02) -> None:
        self.pacing, self.rate, self.best, self.fps, self.delay = pacing, rate, best, fps, delay
        self.now, self.free, self.serial = 0.0, 0.0, 0
        self.busy_s = 0.0
        self.late = 0.0
        self.under_way: list[tuple[int, float]] = []

    def play(self, seconds: float, frames: int = 12) -> None:
        """Send blocks at the pace of the video, at most two messages at a time."""
        end, due, queue = self.now + seconds, self.now, []
        while self.now < end:
            if self.now >= due and not queue:
                parts = self.pacing.parts(frames)
                queue = [frames // parts] * parts
                due = max(due + frames / self.fps, self.now - 1)
            if queue and len(self.under_way) < 2:
                count = queue.pop(0)
                size = int(self.best * self.pacing.level.weight * count)
                self.serial += 1
                self.pacing.sent(self.serial, size, count, self.now)
                self.free = max(self.free, self.now) + size / self.rate + count * self.busy_s
                self.under_way.append((self.serial, self.free + self.delay))
                continue
            self.now = min([there for _, there in self.under_way] or [due])
            while self.under_way and self.under_way[0][1] <= self.now:
                self.pacing.acked(self.under_way.pop(0)[0], self.now)
        self.late = max(0.0, self.now - due)


def test_a_good_link_gets_the_best_pictures():
    pacing = Pacing(832, 480, 16)
    Line(pacing, rate=20e6, best=70_000, fps=16).play(20)
    assert (pacing.index, pacing.parts(12)) == (0, 1)
    assert pacing.level is LARGE[0]
    assert Pacing(128, 128, 16).level is SMALL[0]


@pytest.mark.parametrize(("megabits", "best"), [(8, 110_000), (8, 70_000), (4, 70_000), (2, 70_000)])
def test_a_slow_link_gets_what_it_carries(megabits, best):
    pacing = Pacing(832, 480, 16)
    line = Line(pacing, rate=megabits * 1e6 / 8, best=best, fps=16)
    line.play(30)
    needed = best * pacing.level.weight * 16
    assert pacing.index > 0
    assert needed < 0.9 * line.rate
    # No message is long under way, so that what comes next can still be changed.
    assert best * pacing.level.weight * 12 / pacing.parts(12) / line.rate < 0.4
    assert line.late < 1.0


def test_a_page_without_time_keeps_its_pictures():
    pacing = Pacing(832, 480, 48)
    line = Line(pacing, rate=100e6, best=70_000, fps=48)
    line.busy_s = 1 / 40
    seen, told = [], set()
    for _ in range(60):
        line.play(1)
        seen.append(pacing.index)
        told.add(pacing.reduced)
    # It is tried out now and then, ever more rarely, and nobody is told of a slow link.
    assert seen.count(0) >= 54
    assert told == {None}


def test_a_link_that_gets_slow_after_a_busy_time_is_seen():
    pacing = Pacing(832, 480, 16)
    line = Line(pacing, rate=20e6, best=70_000, fps=16)
    line.busy_s = 1 / 15
    line.play(30)
    assert pacing.reduced is None
    line.busy_s, line.rate = 0.0, 0.5e6
    line.play(60)
    assert pacing.reduced is not None
    assert 70_000 * pacing.level.weight * 16 < 0.9 * line.rate


@pytest.mark.parametrize("rate", [1e6, 0.5e6, 0.25e6])
@pytest.mark.parametrize("played", [2, 3, 5, 20])
def test_a_link_that_gets_slow_in_the_middle_is_seen_at_once(rate, played):
    pacing = Pacing(832, 480, 16)
    line = Line(pacing, rate=20e6, best=92_000, fps=16)
    line.play(played)
    assert pacing.index == 0
    line.rate = rate
    line.play(12)
    assert pacing.reduced is not None
    line.play(12)
    assert line.late < 1.0
    assert 92_000 * pacing.level.weight * 16 < 0.9 * line.rate


def test_a_slow_link_and_a_busy_page_together():
    pacing = Pacing(832, 480, 16)
    line = Line(pacing, rate=1e6, best=110_000, fps=16)
    line.busy_s = 1 / 60
    line.play(40)
    assert pacing.index > 0
    assert line.late < 1.0


def test_quality_comes_back_when_the_link_does():
    pacing = Pacing(832, 480, 16)
    line = Line(pacing, rate=0.5e6, best=70_000, fps=16)
    line.play(20)
    low = pacing.index
    assert low > 1
    line.rate = 20e6
    line.play(60)
    assert pacing.index == 0


def test_it_does_not_waver_on_a_steady_link():
    pacing = Pacing(832, 480, 16)
    line = Line(pacing, rate=1e6, best=70_000, fps=16)
    line.play(20)
    seen = []
    for _ in range(40):
        line.play(1)
        seen.append(pacing.index)
    assert sum(a != b for a, b in itertools.pairwise(seen)) <= 8


def test_nothing_is_known_before_anything_was_confirmed():
    pacing = Pacing(64, 64, 16)
    assert (pacing.throughput, pacing.parts(12), pacing.index) == (None, 1, 0)
    pacing.acked(5, 1.0)
    pacing.sent(6, 1000, 12, 1.0)
    pacing.forget()
    pacing.acked(6, 2.0)
    assert pacing.throughput is None


def test_levels_are_lighter_one_by_one():
    x = np.linspace(0, 255, 240).astype(np.uint8)
    rng = np.random.default_rng(0)
    picture = np.stack([np.tile(x, (160, 1)), np.tile(x[:160, None], (1, 240)), rng.integers(90, 140, (160, 240))], -1)
    frames = picture[None].astype(np.uint8)
    for levels in (SMALL, LARGE):
        sizes = []
        for level in levels:
            (jpeg,) = encode_frames(frames, level.quality, subsampling=level.subsampling, shrink=level.shrink)
            shown = simplejpeg.decode_jpeg(jpeg)
            assert shown.shape == (160 // level.shrink, 240 // level.shrink, 3)
            assert np.abs(shown.astype(int).mean((0, 1)) - picture.mean((0, 1))).max() < 4
            sizes.append(len(jpeg))
        assert sizes == sorted(sizes, reverse=True)
        weights = [level.weight for level in levels]
        assert weights == sorted(weights, reverse=True)
