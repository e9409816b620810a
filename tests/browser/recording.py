"""A source of ready-made frames that look like film to a codec: what is left to measure is the way to the screen."""

from __future__ import annotations

import time

import numpy as np

from studio.events import DecodedBlock
from studio.timeline import History, Segment, Timeline
from tests.widgets.double import Double

PROMPT = "a red ball rolls in the snow"


def pictures(height: int, width: int, count: int, detail: float = 1.0) -> np.ndarray:
    """Frames with the spectrum of photographs that drift and change: uint8 `[count, H, W, 3]`."""
    rng = np.random.default_rng(0)
    tall, wide = height * 2, width * 2
    radius = np.hypot(np.fft.fftfreq(tall)[:, None] * tall, np.fft.rfftfreq(wide)[None] * wide) + 1
    planes = []
    for _ in range(3):
        noise = np.fft.rfft2(rng.standard_normal((tall, wide))) / radius**1.45
        plane = np.fft.irfft2(noise, s=(tall, wide))
        planes.append(plane / plane.std())
    light, *colours = planes
    base = np.stack([light * 1.0 + 0.35 * colours[0], light, light * 0.95 + 0.35 * colours[1]], -1)
    base += detail * 0.03 * rng.standard_normal((tall, wide, 1))
    base = np.clip(118 + 46 * base, 0, 255).astype(np.uint8)
    out = np.empty((count, height, width, 3), np.uint8)
    for i in range(count):
        y, x = (
            round(height * (0.5 + 0.4 * np.sin(2 * np.pi * i / count))),
            round(width * (0.5 + 0.4 * np.cos(2 * np.pi * i / count))),
        )
        out[i] = base[y : y + height, x : x + width]
    out.setflags(write=False)
    return out


class Recording(Double):
    """Plays ready-made frames at any rate and never draws.

    Args:
        size: Height and width in pixels.
        fps: Frames a second of the video.
    """

    def __init__(self, size: tuple[int, int], fps: float, lead: int = 2) -> None:
        self.fps = float(fps)
        self._pool = pictures(*size, count=48)
        super().__init__(PROMPT, size=size, block_s=0, lead=lead, threaded=False)
        self.history = History(Timeline((Segment(PROMPT, 0),), fps=self.fps))
        self.in_flight = 0
        self._start()

    def make(self) -> DecodedBlock:
        with self._wake:
            index, take, self._begun = self._next, self.take, True
        first, end = self.timeline.start_frame(index), self.timeline.start_frame(index + 1)
        # Views of what is there: making a block costs nothing.
        at = 0 if index == 0 else 12 * (index % 3)
        block = DecodedBlock(
            index=index,
            first_frame=first,
            frames=self._pool[at : at + end - first],
            prompt=PROMPT,
            segment=0,
            take=take,
        )
        with self._wake:
            self._begun = False
            if take != self.take:
                return block
            self._next = index + 1
            self._held.append(block)
            self._spent.append(12 / self.fps / 4)
        self._emit("block", block)
        self._emit("stats", self.stats)
        time.sleep(0.001)
        return block
