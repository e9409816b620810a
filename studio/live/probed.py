"""The probes of one cache of a session: what they are told, what they found, and which of them may fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from studio.config import Policy, SinkPolicy
from studio.live.blockreading import BlockReading, gazes_of, mass_of, pictures_of, positions_of
from studio.live.judging import Alignment, Judge
from studio.model.cache import KVCache, Slot
from studio.model.text import Tokenizer
from studio.probes import (
    AttentionProbe,
    AttentionReading,
    AttentionSampling,
    CacheWarning,
    Guarded,
    HealthCheck,
    History,
    Point,
    Residue,
    ResidueFollower,
    Watch,
    Word,
    WordAttention,
    WordTracer,
    words_of,
)
from studio.probes.passes import Listener
from studio.sampler import Block, BlockPlan
from studio.shapes import VideoShape

__all__ = ["EngineLike", "Past", "Probed"]

logger = logging.getLogger(__name__)

# Rotary positions of the table in Wan2.1's public code, beyond which it was never run; window positions stay below.
POSITIONS = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Past:
    """What was made of a take before somebody began to look.

    Args:
        latents: Latents of each block so far.
        prompts: The text of each prompt so far, by its number.
        text: Text embeddings of the last block, or `None` before the first.
        switches: Policy and sink policy of each switch so far, by its block.
    """

    latents: Sequence[Tensor] = ()
    prompts: Mapping[int, str] = field(default_factory=dict)
    text: Tensor | None = None
    switches: Mapping[int, tuple[Policy, SinkPolicy | None]] = field(default_factory=dict)


class EngineLike(Protocol):
    """What an observer asks of the engine."""

    @property
    def cache(self) -> Any: ...
    @property
    def models(self) -> Any: ...
    @property
    def take(self) -> int: ...


class Failures(Protocol):
    """Who is told when a probe fails."""

    def lose(self, error: Exception) -> None:
        """Nothing can be read any more."""
        ...

    def lose_residue(self, error: Exception) -> None:
        """The residue cannot be measured any more."""
        ...


class Probed:
    """The probes of one cache.

    What fails is told and heard no more: without the residue everything else goes on, without the rest nothing does.

    Args:
        engine: Makes the blocks.
        samples: Queries sampled of each latent frame.
        tell: Takes each fault of the cache as it appears.
        past: Tells what was made of the take so far.
        judge: Tells how well frames show a prompt; `None` for nobody.
        failures: Told when a probe fails.

    Attributes:
        cache: The cache.
        take: Number of the take.
        tracer: Traces words through it.
        begun: Whether a block is under way that was heard from its start.
    """

    def __init__(
        self,
        engine: EngineLike,
        samples: int,
        tell: Callable[[CacheWarning], None],
        past: Callable[[], Past],
        judge: Judge | None,
        failures: Failures,
    ) -> None:
        models = engine.models
        config = models.config
        self.cache: KVCache = engine.cache
        self.take, self._shape, self._text = engine.take, VideoShape.of(config), models.text
        self._length, self._sampler = config.dit.text_len, config.sampler
        sampling = AttentionSampling(samples=samples)
        self._probe = AttentionProbe(config.dit, steps=len(config.sampler.steps), sampling=sampling, keep=1)
        self._check = HealthCheck(models.dit, tell=tell, table=POSITIONS)
        self.tracer = WordTracer(samples=samples)
        before = past()
        self._residue = ResidueFollower(
            models.dit, self.cache, config.sampler, lambda: past().latents, switches=before.switches
        )
        self._alignment = Alignment(judge)
        needed: tuple[Listener, ...] = self._probe, self._check, self.tracer
        self._needed = [Guarded(listener, failures.lose) for listener in needed]
        self._wanted = Guarded(self._residue, failures.lose_residue)
        self._watch = Watch(models.dit, config.sampler, *self._needed, self._wanted, cache=self.cache)
        self._text_before = before.text
        self._measured = False
        self._history = History(self.cache)
        self._prompts = dict(before.prompts)
        self._words: dict[str, tuple[Word, ...] | None] = {}
        self._before: tuple[Slot, ...] | None = None
        self._held: tuple[int, tuple[Slot, ...]] = (-1, ())
        self._prompt = ""
        self._told = 0
        self.begun = False

    def expect(self, number: int, prompt: str) -> None:
        """Say which prompt is in force from now on."""
        self._prompts[number] = self._prompt = prompt
        self.tracer.expect(number, self._words_of(prompt))

    def begin(self, entry: BlockPlan, prompt: str, point: Point | None, residue: bool) -> None:
        """A block is about to begin, before its switch touches the cache."""
        points = () if point is None else (point,)
        if self._probe.sampling.points != points:
            self._probe.sampling = replace(self._probe.sampling, points=points)
        self._check.expect(entry)
        self.expect(entry.prompt, prompt)
        self._follow(entry, residue and not self._wanted.over)
        self._text_before = entry.text
        self._probe.readings.clear()
        # A block that begins again has let go of the slots that it evicted.
        if not self.begun or self._held[0] != self.cache.end:
            self._held = self.cache.end, self.cache.slots
        self._before = None if entry.policy is None else self._held[1]
        self.begun = True

    def end(self, block: Block, frames: np.ndarray) -> BlockReading:
        """The block was committed and decoded."""
        self.begun = False
        snapshot = self._history.record(block)
        attention = self._probe.readings[-1] if self._probe.readings else None
        told, self._told = self._told, len(self._check.warnings)
        words = None if attention is None else self._attention_by_word(attention)
        first = block.first_frame
        own = tuple(range(first, first + self._shape.block))
        alignment = self._alignment.of(frames, self._prompts, cut=block.policy == "clear")
        held = {*alignment, *(slot.prompt for slot in (*snapshot.slots, *(self._before or ())))}
        gaze, gazes = gazes_of(snapshot.slots, attention)
        spent = self._spent()
        return BlockReading(
            take=self.take,
            block=block.index,
            prompt=self._prompt,
            policy=block.policy,
            prompts={number: self._prompts.get(number, "") for number in held if number is not None},
            slots=snapshot.slots,
            before=self._before,
            layers=() if attention is None else attention.layers,
            mass=mass_of(snapshot.slots, attention),
            words=words,
            own=own,
            grid=self._shape.grid,
            point=attention.points[0].point if attention is not None and attention.points else None,
            gaze=gaze,
            gazes=gazes,
            positions=positions_of(snapshot.slots, attention),
            pictures=pictures_of(frames, own, self._shape),
            warnings=tuple(self._check.warnings[told:]),
            seconds=sum(spent.values()),
            spent=spent,
            trace=None if attention is None or words is None else self.tracer.trace(attention),
            residues=self._left(block),
            alignment=alignment,
        )

    def close(self) -> None:
        """Take the probes off the network."""
        self._watch.close()

    def _follow(self, entry: BlockPlan, residue: bool) -> None:
        try:
            if residue:
                self._residue.expect(entry, self._text_before)
            else:
                if self._measured:
                    self._residue.stop()
                self._residue.note(entry)
        except Exception as error:
            residue = False
            self._wanted.fail(error)
        self._measured = residue

    def _left(self, block: Block) -> tuple[Residue, ...]:
        if not self._measured or self._wanted.over:
            return ()
        try:
            with torch.inference_mode():  # as the engine itself runs
                return self._residue.made(block.latents)
        except Exception as error:
            self._wanted.fail(error)
            return ()

    def _spent(self) -> dict[str, float]:
        total: dict[str, float] = {}
        for guarded in (*self._needed, self._wanted):
            for kind, seconds in guarded.spent().items():
                total[kind] = total.get(kind, 0.0) + seconds
        return total

    def _attention_by_word(self, attention: AttentionReading) -> WordAttention | None:
        words = self._words_of(self._prompt)
        return None if words is None else attention.by_word(words)

    def _words_of(self, prompt: str) -> tuple[Word, ...] | None:
        if prompt not in self._words:
            tokenizer: Any = getattr(self._text, "tokenizer", None)
            known = callable(tokenizer)
            self._words[prompt] = words_of(cast(Tokenizer, tokenizer), prompt, self._length) if known else None
        return self._words[prompt]
