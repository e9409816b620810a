"""How well pictures are compressed: as well as the link to the slowest page carries.

A page that is short of processor time confirms as late as one at the end of a slow link, but lighter pictures do not
help it. So a lower quality is a trial first: where messages do not get through sooner by it, it was not the link, and
the quality goes back.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

__all__ = ["LARGE", "SMALL", "Level", "Pacing"]


@dataclass(frozen=True, kw_only=True)
class Level:
    """A way to compress.

    Args:
        quality: JPEG quality, 1 to 100.
        subsampling: "444" keeps the colours of every pixel, "420" of every fourth.
        shrink: 1 for the whole picture, 2 for half its width and height.
        weight: Bytes of a usual picture, beside those of the best level; a first guess until it was measured.
    """

    quality: int
    subsampling: str = "420"
    shrink: int = 1
    weight: float = 1.0


# Small pictures are looked at closely: full colour and few artefacts cost little at that size.
SMALL = (
    Level(quality=92, subsampling="444"),
    Level(quality=85, weight=0.48),
    Level(quality=70, weight=0.33),
    Level(quality=50, weight=0.24),
    Level(quality=30, weight=0.17),
)
LARGE = (
    Level(quality=85),
    Level(quality=75, weight=0.72),
    Level(quality=60, weight=0.53),
    Level(quality=45, weight=0.42),
    Level(quality=30, weight=0.31),
    Level(quality=45, shrink=2, weight=0.14),
    Level(quality=25, shrink=2, weight=0.09),
)
SMALL_PIXELS = 320 * 320

# Shares of what the link carries: above the first quality goes down, until the second is met; below the third it may go
# up again, if it then stays below the second.
TOO_MUCH, ENOUGH, LITTLE = 0.85, 0.7, 0.45
SETTLED = 3
CALM_S = 4.0
PART_S = 0.25
MOST_PARTS = 4
RECENT = 6
LONG_S = 1.0
# Messages of a trial, and the share of what a link would save that shows it to be one: half would take a busy page's
# noise for a proof that it is not. How long quality is left alone after a trial that failed: longer each time.
TRIED = 4
# Levels that a trial goes down at most.
STEP = 2
PROOF = 0.3
FIRM_S, LONGEST_FIRM_S = 20.0, 160.0


@dataclass
class _Trial:
    """A lower quality, until it is known whether it helps.

    Args:
        before: Index of the level that it came from.
        serial: Number of the last message sent before it.
        spent: Seconds a frame took before.
        weight: Bytes of a frame now, beside those before.
        takes: Seconds a frame takes now, message by message.
    """

    before: int
    serial: int
    spent: float
    weight: float
    takes: list[float] = field(default_factory=list)

    @property
    def helps(self) -> bool:
        """Whether enough was saved of what a link would save."""
        return median(self.takes) <= self.spent * (1 - PROOF * (1 - self.weight))


class Pacing:
    """Watches how fast messages are confirmed and chooses how well to compress; no thread and no lock of its own.

    Args:
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.
        fps: Frames a second that are to arrive.
    """

    def __init__(self, width: int, height: int, fps: float) -> None:
        self._levels = SMALL if width * height <= SMALL_PIXELS else LARGE
        self._fps = fps
        self.index = 0
        self._bytes: dict[int, float] = {}
        self._sent: dict[int, tuple[float, int, int]] = {}
        self._serial = 0
        self._last_ack = -math.inf
        self._recent: deque[tuple[int, float, int]] = deque(maxlen=RECENT)
        self._trial: _Trial | None = None
        self._firm_until, self._firm_s = -math.inf, FIRM_S
        self._acks_since, self._changed_at = 0, -math.inf

    @property
    def level(self) -> Level:
        """How to compress now."""
        return self._levels[self.index]

    @property
    def reduced(self) -> int | None:
        """JPEG quality where the link has it lowered, as is known by now; None for the best."""
        known = self.index if self._trial is None else self._trial.before
        return self._levels[known].quality if known else None

    @property
    def throughput(self) -> float | None:
        """Bytes a second that the link carries, pages included; None before anything was confirmed."""
        size, seconds, _ = self._latest()
        return size / seconds if seconds > 0 else None

    def parts(self, frames: int) -> int:
        """Messages to cut frames into, so that on a slow link the first ones need not wait for the last."""
        rate, size = self.throughput, self._bytes_at(self.index)
        if rate is None or size is None:
            return 1
        return max(1, min(MOST_PARTS, frames, round(frames * size / (rate * PART_S))))

    def sent(self, serial: int, size: int, frames: int, now: float) -> None:
        """Note a message.

        Args:
            serial: Its number.
            size: Its bytes.
            frames: Frames in it.
            now: Seconds of a clock.
        """
        self._sent[serial] = (now, size, frames)
        self._serial = serial
        before = self._bytes.get(self.index)
        mean = size / max(1, frames)
        self._bytes[self.index] = mean if before is None else 0.7 * before + 0.3 * mean

    def acked(self, serial: int, now: float) -> None:
        """Note that all pages have a message and all before it.

        Args:
            serial: Its number.
            now: Seconds of the same clock.
        """
        for number in sorted(number for number in self._sent if number <= serial):
            when, size, frames = self._sent.pop(number)
            # While the one before was under way this one waited for it.
            seconds = max(1e-4, now - max(when, self._last_ack))
            self._recent.append((size, seconds, frames))
            self._last_ack = now
            self._acks_since += 1
            if self._trial is not None and number > self._trial.serial:
                self._trial.takes.append(seconds / max(1, frames))
        if self._trial is None:
            self._choose(now)
        elif len(self._trial.takes) >= TRIED:
            self._decide(self._trial, now)

    def _decide(self, trial: _Trial, now: float) -> None:
        """End a trial: keep the lower quality, or go back and leave it there for a while."""
        self._trial = None
        if trial.helps:
            self._firm_s = FIRM_S
        else:
            self._go(trial.before, now)
            self._firm_until = now + self._firm_s
            self._firm_s = min(2 * self._firm_s, LONGEST_FIRM_S)

    def forget(self) -> None:
        """Forget what was under way: pages came or went."""
        self._sent.clear()
        self._trial = None

    def _bytes_at(self, index: int) -> float | None:
        """Bytes a frame at a level: measured there, else by what was measured at the present one."""
        if index in self._bytes:
            return self._bytes[index]
        here = self._bytes.get(self.index)
        return None if here is None else here * self._levels[index].weight / self._levels[self.index].weight

    def _latest(self) -> tuple[int, float, int]:
        """Bytes, seconds and frames of the last messages: of those before, the link may have been another one."""
        size, seconds, frames = 0, 0.0, 0
        for message in reversed(self._recent):
            size, seconds, frames = size + message[0], seconds + message[1], frames + message[2]
            if seconds >= LONG_S:
                break
        return size, seconds, frames

    def _load(self, index: int) -> float:
        """Share of what the link carries that playing takes at a level."""
        size, rate = self._bytes_at(index), self.throughput
        return 0.0 if size is None or not rate else size * self._fps / rate

    def _choose(self, now: float) -> None:
        waited = self._recent[-1][1] if self._acks_since else 0.0
        if self._acks_since < SETTLED and waited < LONG_S:
            return
        last = len(self._levels) - 1
        if self._load(self.index) > TOO_MUCH and self.index < last:
            if now >= self._firm_until:
                # Far down only by steps that helped: a trial of the worst would show, and for nothing on a busy page.
                down = range(self.index + 1, min(self.index + STEP, last) + 1)
                self._lower(next((index for index in down if self._load(index) <= ENOUGH), down[-1]), now)
        elif self.index > 0 and self._load(self.index) < LITTLE and now - self._changed_at > CALM_S:
            # What was measured there long ago may have been another picture.
            self._bytes.pop(self.index - 1, None)
            if self._load(self.index - 1) <= ENOUGH:
                self._go(self.index - 1, now)

    def _lower(self, index: int, now: float) -> None:
        _, seconds, frames = self._latest()
        spent = seconds / max(1, frames)
        before, heavy = self.index, self._bytes_at(self.index)
        self._go(index, now)
        light = self._bytes_at(index)
        weight = 1.0 if not heavy or light is None else light / heavy
        self._trial = _Trial(before, self._serial, spent, weight)

    def _go(self, index: int, now: float) -> None:
        if index not in self._bytes:
            guess = self._bytes_at(index)
            if guess is not None:
                self._bytes[index] = guess
        self.index, self._acks_since, self._changed_at = index, 0, now
