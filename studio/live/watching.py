"""Watching a session's cache: who wrote each slot, who looks at it, and what should not be, block by block.

The engine tells an `Observer` of each block's plan and of the finished block; the observer hangs probes on the network
meanwhile. Nobody watching means no observer, no hooks and no work.
"""

from __future__ import annotations

import logging
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from studio.config import Policy
from studio.live.judging import Alignment, Judge
from studio.model.cache import KVCache, Slot
from studio.model.text import Tokenizer
from studio.probes import (
    AttentionProbe,
    AttentionReading,
    AttentionSampling,
    CacheFault,
    CacheWarning,
    HealthCheck,
    History,
    Point,
    Residue,
    ResidueFollower,
    Word,
    WordAttention,
    words_of,
)
from studio.probes.passes import Watch
from studio.sampler import Block, BlockPlan
from studio.shapes import VideoShape

__all__ = ["BlockReading", "Observer", "Past", "Watching"]

logger = logging.getLogger(__name__)

BUDGET = 64 * 1024 * 1024
SAMPLES = 16
PICTURE_ROWS = 72

Reader = Callable[["BlockReading"], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockReading:
    """What one block saw of the cache.

    Args:
        take: Number of the take.
        block: The block.
        prompt: The prompt in force.
        policy: The switch taken at its start, or `None`.
        prompts: The text of each prompt that a slot was written under, by its number.
        slots: The cache when the block had been committed, which is what the block saw, itself included: sink first,
            then the window from old to new, then empty slots.
        before: The cache before the switch, or `None` where there was none.
        layers: Layers read.
        mass: `[layers, heads, slots]` float32: share of the last denoising step's attention on each slot, the mean
            over sampled queries; 0 for slots that hold nothing, NaN for those out of sight. Sums to 1 over slots.
        words: Attention to the words of the prompt, or `None` where the text encoder does not tell its words.
        own: Latent frames that the block itself made.
        grid: Token rows and columns of a latent frame.
        point: The point of the block whose gaze was asked for, or `None`.
        gaze: `[slots, rows, columns]` float32: where that point looks, the mean over layers and heads; 0 for slots
            that hold nothing, NaN for those out of sight. Sums to 1. `None` without a point.
        pictures: uint8 `[own frames, rows, columns, 3]`, the last frame that each of them decodes to, made smaller.
        warnings: Faults that appeared with this block.
        seconds: Seconds that the attention was read for.
        residues: What was left of the prompt before the last switch, where that was measured: "before" and "after" a
            switch at this block, and when the block was "made".
        alignment: How well the latest frames show each of the last prompts, by their number, as the session's judge
            says; NaN where it cannot tell.
    """

    take: int
    block: int
    prompt: str
    policy: Policy | None
    prompts: dict[int, str]
    slots: tuple[Slot, ...]
    before: tuple[Slot, ...] | None
    layers: tuple[int, ...]
    mass: np.ndarray
    words: WordAttention | None
    own: tuple[int, ...]
    grid: tuple[int, int]
    point: Point | None
    gaze: np.ndarray | None
    pictures: np.ndarray
    warnings: tuple[CacheWarning, ...]
    seconds: float
    residues: tuple[Residue, ...] = ()
    alignment: dict[int, float] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays take."""
        words = [] if self.words is None else [self.words.mass, self.words.rest, self.words.maps]
        gaze = [] if self.gaze is None else [self.gaze]
        return sum(array.nbytes for array in (self.mass, self.pictures, *words, *gaze))

    def shares(self, layer: int | None = None, head: int | None = None) -> np.ndarray:
        """Share of the attention on each slot.

        Args:
            layer: One of `layers`; `None` for the mean over all.
            head: One head; `None` for the mean over all.

        Returns:
            `[slots]`.

        Raises:
            ValueError: If there is no such layer or head.
        """
        mass = self.mass
        if layer is not None:
            if layer not in self.layers:
                raise ValueError(f"`layer` must be one of {list(self.layers)}, got {layer}")
            mass = mass[[self.layers.index(layer)]]
        if head is not None:
            if not 0 <= head < mass.shape[1]:
                raise ValueError(f"`head` must lie in 0..{mass.shape[1] - 1}, got {head}")
            mass = mass[:, [head]]
        return mass.mean(axis=(0, 1))

    def rows(self) -> list[dict[str, Any]]:
        """A row for each slot, ready for a data frame."""
        return [
            {
                "take": self.take,
                "block": self.block,
                "in_force": self.prompt,
                "policy": self.policy,
                "slot": index,
                "role": slot.role,
                "frame": slot.frame,
                "prompt": None if slot.prompt is None else self.prompts[slot.prompt],
                "written": slot.written,
                "written_at": slot.block,
                "attention": float(share),
            }
            for index, (slot, share) in enumerate(zip(self.slots, self.shares(), strict=True))
        ]

    def head_rows(self) -> list[dict[str, Any]]:
        """A row for each layer, head and slot, ready for a data frame."""
        return [
            {
                "take": self.take,
                "block": self.block,
                "layer": self.layers[layer],
                "head": head,
                "slot": slot,
                "frame": self.slots[slot].frame,
                "role": self.slots[slot].role,
                "attention": float(share),
            }
            for (layer, head, slot), share in np.ndenumerate(self.mass)
        ]

    def gaze_rows(self) -> list[dict[str, Any]]:
        """A row for each slot and token position that the point looks at; none without a point."""
        if self.gaze is None or self.point is None:
            return []
        return [
            {
                "take": self.take,
                "block": self.block,
                "point_frame": self.own[self.point.frame],
                "point_row": self.point.row,
                "point_column": self.point.column,
                "slot": slot,
                "frame": self.slots[slot].frame,
                "row": row,
                "column": column,
                "attention": float(share),
            }
            for (slot, row, column), share in np.ndenumerate(self.gaze)
        ]

    def residue(self, moment: str = "made") -> float:
        """What was left of the prompt before the last switch.

        Args:
            moment: "before" or "after" a switch at this block, or when the block was "made".

        Returns:
            1 for all, 0 for nothing; NaN where it was not measured or the cache was empty.
        """
        return next((found.total for found in self.residues if found.moment == moment), float("nan"))

    def curve_rows(self) -> list[dict[str, Any]]:
        """A row for each prompt judged and each residue measured, ready for a data frame."""
        head = {"take": self.take, "block": self.block, "in_force": self.prompt}
        judged = [
            {**head, "what": "alignment", "of": self.prompts.get(number, ""), "value": value}
            for number, value in self.alignment.items()
        ]
        return judged + [
            {**head, "what": "residue", "of": found.moment, "value": found.total} for found in self.residues
        ]

    def word_rows(self) -> list[dict[str, Any]]:
        """A row for each word, ready for a data frame; none where words are not known."""
        if self.words is None:
            return []
        mean = self.words.mass.mean(axis=(0, 1, 2))
        return [
            {"take": self.take, "block": self.block, "index": i, "word": word.text, "attention": float(share)}
            for i, (word, share) in enumerate(zip(self.words.words, mean, strict=True))
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Past:
    """What was made of a take before somebody began to look.

    Args:
        latents: Latents of each block so far.
        prompts: The text of each prompt so far, by its number.
        text: Text embeddings of the last block, or `None` before the first.
    """

    latents: Sequence[Tensor] = ()
    prompts: Mapping[int, str] = field(default_factory=dict)
    text: Tensor | None = None


class _Engine(Protocol):
    """What an observer asks of the engine."""

    @property
    def cache(self) -> Any: ...
    @property
    def models(self) -> Any: ...
    @property
    def take(self) -> int: ...


class Observer:
    """Hears of every block of a session from its engine, on the generator's thread.

    Args:
        samples: Queries sampled of each latent frame.
        budget: Bytes that the kept readings may take; the oldest go first.
        gone: Called when nobody watches any more.
        past: Tells what was made of the take so far.
        judge: Tells how well frames show a prompt; `None` for nobody.

    Attributes:
        past: As above.
        residue: Whether the residue is measured; see `ResidueFollower` for what that costs.
    """

    def __init__(
        self,
        *,
        samples: int = SAMPLES,
        budget: int = BUDGET,
        gone: Callable[[Observer], None],
        past: Callable[[], Past] = Past,
        judge: Judge | None = None,
    ) -> None:
        self.samples, self._budget, self._gone = samples, budget, gone
        self.past, self._judge, self.residue = past, judge, False
        self._lock = threading.RLock()
        self._readings: deque[BlockReading] = deque()
        self._bytes = 0
        self._readers: dict[int, Reader] = {}
        self._faults: list[CacheWarning] = []
        self._point: Point | None = None
        self._probed: _Probed | None = None
        self._numbers = 0
        self._holders: set[int] = set()
        self._over = False

    # On the generator's thread

    def begin(self, engine: _Engine, entry: BlockPlan, prompt: str) -> None:
        """A block is about to begin, before its switch touches the cache."""
        with self._guard(), self._lock:
            if self._over:
                return
            if self._probed is None or self._probed.cache is not engine.cache:
                self._renew(engine)
            assert self._probed is not None
            self._probed.begin(entry, prompt, self._point, self.residue)

    def end(self, engine: _Engine, block: Block, frames: np.ndarray) -> None:
        """A block was committed and decoded."""
        with self._guard():
            with self._lock:
                probed = self._probed
                # Whoever came in the middle of a block reads from the next one on.
                if self._over or probed is None or probed.cache is not engine.cache or not probed.begun:
                    return
                reading = probed.end(block, frames)
                self._keep(reading)
                readers = list(self._readers.values())
            for reader in readers:
                reader(reading)

    def _renew(self, engine: _Engine) -> None:
        if self._probed is not None:
            self._probed.close()
        if self._readings and self._readings[-1].take != engine.take:
            self._readings.clear()
            self._faults.clear()
            self._bytes = 0
        self._probed = _Probed(engine, self.samples, self._tell, self.past, self._judge)

    def _keep(self, reading: BlockReading) -> None:
        self._readings.append(reading)
        self._bytes += reading.nbytes
        while self._bytes > self._budget and len(self._readings) > 1:
            self._bytes -= self._readings.popleft().nbytes

    def _tell(self, fault: CacheWarning) -> None:
        self._faults.append(fault)
        with suppress(CacheFault):  # a filter that turns warnings into errors must not end the video
            warnings.warn(fault.message, CacheFault, stacklevel=2)

    def _guard(self) -> _Guard:
        return _Guard(self._fail)

    def _fail(self, error: Exception) -> None:
        # What looks on must never stop what it looks at.
        logger.warning("the cache is no longer watched: %s: %s", type(error).__name__, error, exc_info=error)
        self.stop()

    # For those who watch

    def hold(self) -> int:
        """Count somebody in; returns their number.

        Raises:
            RuntimeError: If nobody watches any more, and the session has let go.
        """
        with self._lock:
            if self._over:
                raise RuntimeError("this observer is over; call `session.watch()` again")
            self._numbers += 1
            self._holders.add(self._numbers)
            return self._numbers

    def release(self, holder: int) -> None:
        """Count somebody out; the last one ends it."""
        with self._lock:
            self._holders.discard(holder)
            if self._holders:
                return
        self.stop()

    def stop(self) -> None:
        """Take the probes off the network."""
        with self._lock:
            self._over = True
            probed, self._probed = self._probed, None
            self._readers.clear()
        if probed is not None:
            probed.close()
        self._gone(self)

    @property
    def over(self) -> bool:
        """Whether nothing will be read any more."""
        return self._over

    @property
    def readings(self) -> tuple[BlockReading, ...]:
        """The kept readings of the current take, old to new."""
        with self._lock:
            return tuple(self._readings)

    @property
    def faults(self) -> tuple[CacheWarning, ...]:
        """Every fault of the current take so far."""
        with self._lock:
            return tuple(self._faults)

    def adopt(self, reading: BlockReading) -> None:
        """Take in a reading that was made elsewhere, of a block of this take that was not watched.

        Args:
            reading: The reading; left alone where the block was read already.
        """
        with self._lock:
            if self._over or any(held.block == reading.block for held in self._readings):
                return
            self._keep(reading)
            self._faults.extend(reading.warnings)
            self._readings = deque(sorted(self._readings, key=lambda held: held.block))
            readers = list(self._readers.values())
        for reader in readers:
            reader(reading)

    def look(self, point: Point | None) -> None:
        """Read where a point looks from the next block on; `None` for no point."""
        with self._lock:
            self._point = point

    def subscribe(self, reader: Reader) -> Callable[[], None]:
        """Hand each new reading to a reader until the returned function is called."""
        with self._lock:
            self._numbers += 1
            number = self._numbers
            self._readers[number] = reader
        return lambda: self._forget(number)

    def _forget(self, number: int) -> None:
        with self._lock:
            self._readers.pop(number, None)


class Watching:
    """A hold on a watched session; see `Session.watch`. Drop or close every hold, and watching ends.

    Args:
        observer: What hears of the blocks.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._end = weakref.finalize(self, observer.release, observer.hold())
        self._end.atexit = False

    @property
    def readings(self) -> tuple[BlockReading, ...]:
        """The kept readings of the current take, old to new; the oldest go when they take too much memory."""
        return self._observer.readings

    @property
    def latest(self) -> BlockReading | None:
        """The last finished block's reading."""
        readings = self._observer.readings
        return readings[-1] if readings else None

    @property
    def warnings(self) -> tuple[CacheWarning, ...]:
        """Every fault of the current take so far."""
        return self._observer.faults

    @property
    def active(self) -> bool:
        """Whether blocks are still being read."""
        return not self._observer.over

    def at(self, block: int) -> BlockReading | None:
        """The reading of a block, or `None` when it is no longer held or was not read."""
        return next((reading for reading in self._observer.readings if reading.block == block), None)

    def look(self, frame: int, row: int, column: int) -> None:
        """Read where a point of the picture looks, from the next block that begins.

        Args:
            frame: Latent frame within the block, from 0.
            row: Token row; `BlockReading.grid` says how many there are.
            column: Token column.

        Raises:
            ValueError: If there is no such point.
        """
        self._observer.look(self._checked(Point(frame=frame, row=row, column=column)))

    def look_away(self) -> None:
        """Read no point any more, from the next block that begins."""
        self._observer.look(None)

    def measure_residue(self, on: bool = True) -> None:
        """Measure from the next switch on what is left in the cache of the prompt before it, or no more.

        That takes time: at the switch two commits for each block of the last two windows, then two more a block.

        Args:
            on: Whether to measure.
        """
        self._observer.residue = on

    @property
    def measures_residue(self) -> bool:
        """Whether the residue is measured."""
        return self._observer.residue

    def _checked(self, point: Point) -> Point:
        latest = self.latest
        if latest is None:
            raise ValueError("`row` and `column` cannot be placed before the first block was read; wait for it")
        (rows, columns), frames = latest.grid, len(latest.own)
        if point.frame >= frames or point.row >= rows or point.column >= columns:
            raise ValueError(
                f"the point must lie within {frames} frames, {rows} rows and {columns} columns, "
                f"got {point.frame}, {point.row}, {point.column}"
            )
        return point

    def subscribe(self, reader: Reader) -> Callable[[], None]:
        """Be handed each new reading.

        Args:
            reader: Called on the generator's thread just before the block is announced; it must return at once.

        Returns:
            A function that ends it, harmless when repeated.
        """
        return self._observer.subscribe(reader)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each kept block and slot, ready for a data frame."""
        return [row for reading in self.readings for row in reading.rows()]

    def word_rows(self) -> list[dict[str, Any]]:
        """A row for each kept block and word, ready for a data frame."""
        return [row for reading in self.readings for row in reading.word_rows()]

    def close(self) -> None:
        """Let go; harmless when repeated."""
        self._end()

    def __enter__(self) -> Watching:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Guard:
    """Hands an exception on instead of raising it."""

    def __init__(self, fail: Callable[[Exception], None]) -> None:
        self._fail = fail

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self._fail(error)
            return True
        return False


class _Probed:
    """The probes of one cache."""

    def __init__(
        self,
        engine: _Engine,
        samples: int,
        tell: Callable[[CacheWarning], None],
        past: Callable[[], Past],
        judge: Judge | None,
    ) -> None:
        models = engine.models
        config = models.config
        self.cache: KVCache = engine.cache
        self._take, self._shape, self._text = engine.take, VideoShape.of(config), models.text
        self._length = config.dit.text_len
        sampling = AttentionSampling(samples=samples, positions=False)
        self._probe = AttentionProbe(config.dit, steps=len(config.sampler.steps), sampling=sampling, keep=1)
        self._check = HealthCheck(models.dit, tell=tell)
        self._residue = ResidueFollower(models.dit, self.cache, config.sampler, lambda: past().latents)
        self._alignment = Alignment(judge)
        listeners = self._probe, self._check, self._residue
        self._watch = Watch(models.dit, config.sampler, *listeners, cache=self.cache)
        before = past()
        self._text_before = before.text
        self._measured = False
        self._history = History(self.cache)
        self._prompts = dict(before.prompts)
        self._words: tuple[str, tuple[Word, ...] | None] | None = None
        self._before: tuple[Slot, ...] | None = None
        self._prompt = ""
        self._told = 0
        self._spent = 0.0
        self.begun = False

    def begin(self, entry: BlockPlan, prompt: str, point: Point | None, residue: bool) -> None:
        points = () if point is None else (point,)
        if self._probe.sampling.points != points:
            self._probe.sampling = replace(self._probe.sampling, points=points)
        self._check.expect(entry)
        if residue:
            self._residue.expect(entry, self._text_before)
        elif self._measured:
            self._residue.stop()
        self._measured, self._text_before = residue, entry.text
        self._probe.readings.clear()
        self._prompts[entry.prompt] = self._prompt = prompt
        self._before = None if entry.policy is None else self.cache.slots
        self.begun = True

    def end(self, block: Block, frames: np.ndarray) -> BlockReading:
        self.begun = False
        snapshot = self._history.record(block)
        attention = self._probe.readings[-1] if self._probe.readings else None
        told, self._told = self._told, len(self._check.warnings)
        spent, self._spent = self._spent, self._probe.cost.seconds
        words = None if attention is None else self._attention_by_word(attention)
        first = block.first_frame
        own = tuple(range(first, first + self._shape.block))
        alignment = self._alignment.of(frames, self._prompts, cut=block.policy == "clear")
        held = {*alignment, *(slot.prompt for slot in (*snapshot.slots, *(self._before or ())))}
        return BlockReading(
            take=self._take,
            block=block.index,
            prompt=self._prompt,
            policy=block.policy,
            prompts={number: self._prompts.get(number, "") for number in held if number is not None},
            slots=snapshot.slots,
            before=self._before,
            layers=() if attention is None else attention.layers,
            mass=_mass(snapshot.slots, attention),
            words=words,
            own=own,
            grid=self._shape.grid,
            point=attention.points[0].point if attention is not None and attention.points else None,
            gaze=_gaze(snapshot.slots, attention),
            pictures=_pictures(frames, own, self._shape),
            warnings=tuple(self._check.warnings[told:]),
            seconds=self._spent - spent,
            residues=self._left(block),
            alignment=alignment,
        )

    def close(self) -> None:
        self._watch.close()

    def _left(self, block: Block) -> tuple[Residue, ...]:
        with torch.inference_mode():  # as the engine itself runs
            return self._residue.made(block.latents) if self._measured else ()

    def _attention_by_word(self, attention: AttentionReading) -> WordAttention | None:
        if self._words is None or self._words[0] != self._prompt:
            tokenizer: Any = getattr(self._text, "tokenizer", None)
            found = words_of(cast(Tokenizer, tokenizer), self._prompt, self._length) if callable(tokenizer) else None
            self._words = self._prompt, found
        words = self._words[1]
        return None if words is None else attention.by_word(words)


def _mass(slots: tuple[Slot, ...], attention: AttentionReading | None) -> np.ndarray:
    """Attention `[layers, heads, slots]` in the order of the cache's slots."""
    if attention is None:
        return np.full((0, 0, len(slots)), np.nan, dtype=np.float32)
    seen = {slot.frame: index for index, slot in enumerate(attention.slots)}
    mean = attention.mass.mean(axis=2)
    mass = np.full((*mean.shape[:2], len(slots)), np.nan, dtype=np.float32)
    for index, slot in enumerate(slots):
        if slot.frame is None:
            mass[..., index] = 0
        elif slot.frame in seen:
            mass[..., index] = mean[..., seen[slot.frame]]
    return mass


def _gaze(slots: tuple[Slot, ...], attention: AttentionReading | None) -> np.ndarray | None:
    """Where the point looks `[slots, rows, columns]`, in the order of the cache's slots."""
    if attention is None or not attention.points:
        return None
    seen = {slot.frame: index for index, slot in enumerate(attention.slots)}
    mean = attention.points[0].weights.mean(axis=(0, 1))
    gaze = np.full((len(slots), *mean.shape[1:]), np.nan, dtype=np.float32)
    for index, slot in enumerate(slots):
        if slot.frame is None:
            gaze[index] = 0
        elif slot.frame in seen:
            gaze[index] = mean[seen[slot.frame]]
    return gaze


def _pictures(frames: np.ndarray, own: tuple[int, ...], shape: VideoShape) -> np.ndarray:
    """A small picture of each latent frame: the last pixel frame it decodes to, averaged down; none without pixels."""
    if len(frames) == 0:
        return np.zeros((0, 1, 1, 3), dtype=np.uint8)
    start = shape.first_frame(own[0] // shape.block)
    picked = frames[[shape.frames_of(frame + 1) - 1 - start for frame in own]]
    factor = max(1, -(-picked.shape[1] // PICTURE_ROWS))
    rows, columns = picked.shape[1] // factor, picked.shape[2] // factor
    cut = picked[:, : rows * factor, : columns * factor].astype(np.float32)
    small = cut.reshape(len(own), rows, factor, columns, factor, 3).mean(axis=(2, 4))
    return np.rint(small).astype(np.uint8)
